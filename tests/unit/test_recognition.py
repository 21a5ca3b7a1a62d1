"""Recalls, their means, groups, calibration and intervals, against plain loops."""

from __future__ import annotations

import math
from statistics import geometric_mean as exact_geometric_mean
from statistics import harmonic_mean as exact_harmonic_mean

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from lit_modules.metrics.calibration import calibrate
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.metrics.recognition import (
    bootstrap_intervals,
    class_recalls,
    count_confusions,
    geometric_mean,
    group_means,
    harmonic_mean,
    recall_metrics,
    shot_groups,
)
from records.errors import UserError
from records.notices import RunWarning

CLASSES, SAMPLES = 7, 210
COUNTS = (500, 101, 100, 60, 20, 19, 1)


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(SAMPLES) % CLASSES
    logits = 2 * torch.randn(SAMPLES, CLASSES, generator=generator)
    logits[torch.arange(SAMPLES), label] += 2 - label * 0.5
    return logits, label


def judged(logits: torch.Tensor, label: torch.Tensor, counts: tuple[int, ...] | None = COUNTS, **settings: object):
    metric = ClassRecognition(**settings)  # type: ignore[arg-type]
    if counts is not None:
        metric.group_by(counts)
    metric.update(logits, label, torch.arange(len(label)))
    return metric.compute()


def slow_recalls(logits: torch.Tensor, label: torch.Tensor) -> list[float]:
    hits, total = [0] * CLASSES, [0] * CLASSES
    for row, truth in zip(logits.tolist(), label.tolist(), strict=True):
        total[truth] += 1
        hits[truth] += row.index(max(row)) == truth
    return [hit / count for hit, count in zip(hits, total, strict=True)]


def test_all_metrics_equal_plain_loops(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    result = judged(logits, label)
    recalls = slow_recalls(logits, label)
    floored = [max(recall, 1e-3) for recall in recalls]
    assert result.recalls.tolist() == recalls
    expected = {
        "accuracy": sum(recalls) / CLASSES,  # as many samples of each class
        "balanced_accuracy": balanced_accuracy_score(label, logits.argmax(1)),
        "gm": exact_geometric_mean(floored),
        "hm": exact_harmonic_mean(floored),
        "lowest_recall": min(recalls),
        "zero_recall_classes": recalls.count(0),
        "many": (recalls[0] + recalls[1]) / 2,
        "medium": (recalls[2] + recalls[3] + recalls[4]) / 3,
        "few": (recalls[5] + recalls[6]) / 2,
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-12), name
    assert np.array_equal(result.confusion, confusion_matrix(label, logits.argmax(1)))


def test_accuracy_counts_samples_and_balanced_accuracy_classes() -> None:
    confusion = np.array([[90, 0], [5, 5]])
    metrics = recall_metrics(confusion)
    assert metrics["accuracy"] == 0.95
    assert metrics["balanced_accuracy"] == 0.75


@pytest.mark.parametrize(("floor", "hm", "gm"), [(1e-2, 0.288, 0.386), (1e-3, 0.080, 0.377), (1e-6, 0.0001, 0.352)])
def test_one_dead_class_of_a_hundred(floor: float, hm: float, gm: float) -> None:
    recalls = np.array([0.4] * 99 + [0.0])
    assert harmonic_mean(recalls, floor) == pytest.approx(hm, abs=6e-4)
    assert geometric_mean(recalls, floor) == pytest.approx(gm, abs=6e-4)


def test_only_the_means_are_floored(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    logits[label == 2, 2] = -50
    result = judged(logits, label)
    assert result.metrics["lowest_recall"] == 0
    assert result.metrics["zero_recall_classes"] == 1
    assert result.recalls[2] == 0
    assert 0 < result.metrics["hm"] < 0.01
    assert judged(logits, label, floor=0.0).metrics["hm"] == 0
    assert judged(logits, label, floor=0.0).metrics["gm"] == 0


def test_groups_have_the_limits_of_the_field_and_empty_ones_are_absent() -> None:
    groups = shot_groups(COUNTS)
    assert {name: np.flatnonzero(group).tolist() for name, group in groups.items()} == {
        "many": [0, 1],
        "medium": [2, 3, 4],
        "few": [5, 6],
    }
    recalls = np.array([0.5, np.nan, 0.3])
    assert group_means(recalls, shot_groups((200, 150, 30))) == {"many": 0.5, "medium": 0.3}
    assert group_means(recalls, shot_groups((200, 50, 300))) == {"many": 0.4}


def test_without_training_counts_there_are_no_groups(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert not {"many", "medium", "few"} & judged(*samples, counts=None).metrics.keys()


def slow_calibration_error(confidence: list[float], correct: list[bool], bins: int) -> float:
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (c == 0 and number == 0)]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return error


def test_calibration_error_equals_a_loop_over_bins(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    exponentials = [[math.exp(x) for x in row] for row in logits.double().tolist()]
    confidence = [max(row) / sum(row) for row in exponentials]
    correct = (logits.argmax(1) == label).tolist()
    for bins in (15, 10, 1):
        result = judged(logits, label, bins=bins)
        assert result.metrics["ece"] == pytest.approx(slow_calibration_error(confidence, correct, bins), abs=1e-12)
        assert result.calibration.counts.sum() == SAMPLES


def test_bins_hold_their_upper_limit_and_the_first_holds_zero() -> None:
    confidence = np.array([0.0, 0.25, 0.25 + 1e-12, 0.5, 1.0])
    table = calibrate(confidence, np.array([True, False, True, True, True]), 4)
    assert table.counts.tolist() == [2, 2, 0, 1]
    assert table.correct.tolist() == [1, 2, 0, 1]
    assert np.isnan(table.accuracy[2])
    assert np.isnan(table.confidence[2])
    assert table.expected_error == pytest.approx((abs(1 - 0.25) + abs(2 - 0.75) + 0) / 5)


def test_intervals_are_those_of_drawing_samples_anew() -> None:
    label = np.repeat(np.arange(4), 50)
    prediction = np.where(np.arange(200) % 50 < np.repeat([45, 30, 20, 10], 50), label, (label + 1) % 4)
    intervals = bootstrap_intervals(count_confusions(label, prediction, 4), replicates=4000, seed=1)
    random = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {"accuracy": [], "hm": [], "lowest_recall": []}
    for _ in range(4000):
        rows = np.concatenate([random.choice(np.flatnonzero(label == c), 50) for c in range(4)])
        metrics = recall_metrics(count_confusions(label[rows], prediction[rows], 4))
        for name, values in drawn.items():
            values.append(metrics[name])
    for name, (low, high) in intervals.items():
        expected = np.quantile(drawn[name], [0.025, 0.975])
        assert (low, high) == pytest.approx(tuple(expected), abs=0.011), name
        assert low < recall_metrics(count_confusions(label, prediction, 4))[name] < high


def test_intervals_are_a_function_of_seed_and_counts(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, again, other = (judged(*samples, seed=seed).metrics for seed in (0, 0, 1))
    assert first == again
    assert first["hm_low"] != other["hm_low"]
    assert first["accuracy_low"] < first["accuracy"] < first["accuracy_high"]
    assert not any(name.endswith(("_low", "_high")) for name in judged(*samples, bootstrap=0).metrics)


def test_batches_order_and_repeats_change_nothing(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    alone = judged(logits, label)
    metric = ClassRecognition()
    metric.group_by(COUNTS)
    order = torch.cat([torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1)), torch.arange(5)])
    for part in [*order.split(17), order[:0]]:
        metric.update(logits[part], label[part], part)
    with pytest.warns(RunWarning, match="5 samples were evaluated more than once"):
        result = metric.compute()
    assert result.metrics == alone.metrics
    assert result.duplicates == 5
    assert result.num_samples == SAMPLES


def test_a_class_without_samples_is_left_out_and_said(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    kept = label != 6
    with pytest.warns(RunWarning, match="1 of 7 classes have no sample in an evaluated part, the first is class 6"):
        result = judged(logits[kept], label[kept])
    recalls = slow_recalls(logits, label)[:6]
    assert np.isnan(result.recalls[6])
    assert result.metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / 6)
    assert result.metrics["few"] == recalls[5]
    assert np.isnan(class_recalls(np.array([[1, 0], [0, 0]]))[1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(samples: tuple[torch.Tensor, torch.Tensor], value: float) -> None:
    logits, label = samples
    logits[[3, 8], 1] = value
    with pytest.raises(UserError, match=r"2 of 210 samples have logits with NaN .* first at index 3.*optim\.lr"):
        judged(logits, label)


def test_an_excluded_class_may_have_minus_infinity(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    logits[:, 6] = -math.inf
    assert judged(logits, label).recalls[6] == 0


def test_what_does_not_belong_together_is_refused(samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = samples
    with pytest.raises(UserError, match="logits have 7 classes, and training counts are known for 3"):
        judged(logits, label, counts=(5, 4, 3))
    with pytest.raises(UserError, match=r"a sample has class 5, and the classifier knows 0 \.\. 4"):
        judged(logits[:, :5], label, counts=None)
    with pytest.raises(ValueError, match="do not go together"):
        ClassRecognition().update(logits, label[:-1], torch.arange(SAMPLES))
    with pytest.raises(TypeError, match="label has dtype"):
        ClassRecognition().update(logits, label.float(), torch.arange(SAMPLES))
    metric = ClassRecognition()
    metric.update(logits, label, torch.arange(SAMPLES))
    with pytest.raises(ValueError, match="logits have 6 classes, those before had 7"):
        metric.update(logits[:6, :6], torch.arange(6), torch.arange(6))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"floor": 1.0}, r"metric\.floor is 1\.0"),
        ({"floor": -0.1}, r"metric\.floor is -0\.1"),
        ({"bins": 0}, r"metric\.bins is 0"),
        ({"bootstrap": -1}, r"metric\.bootstrap is -1"),
        ({"few_below": 200}, r"metric\.few_below is 200 and metric\.many_above 100"),
    ],
)
def test_settings_out_of_range_are_refused_by_key(settings: dict[str, float], match: str) -> None:
    with pytest.raises(UserError, match=match):
        ClassRecognition(**settings)  # type: ignore[arg-type]
