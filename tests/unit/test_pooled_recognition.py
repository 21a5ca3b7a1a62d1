"""Several evaluations as one, and a fitted head judged on whole arrays: against the metric on all samples at once."""

import numpy as np
import pytest
import torch

from lit_modules.fewshot.base import recognise
from lit_modules.fewshot.zeroshot import ZeroShot
from lit_modules.metrics.per_class import ClassRecognition, pooled
from lit_modules.recognition import judge

CLASSES = 4


def samples(seed, size):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, CLASSES, generator=random), torch.randint(CLASSES, (size,), generator=random)


def test_pooled_evaluations_are_the_evaluation_of_all_samples():
    parts, whole = [], ClassRecognition(bootstrap=0)
    for number, size in enumerate((30, 17, 5)):
        logits, label = samples(number, size)
        metric = ClassRecognition(bootstrap=0)
        metric.update(logits, label, torch.arange(size))
        parts.append(metric.compute())
        whole.update(logits, label, 100 * number + torch.arange(size))
    wanted = whole.compute()
    for found in (pooled(parts), pooled([pooled(parts[:2]), parts[2]])):
        assert np.array_equal(found.confusion, wanted.confusion)
        assert np.array_equal(found.recalls, wanted.recalls)
        assert np.array_equal(found.calibration.counts, wanted.calibration.counts)
        assert np.array_equal(found.calibration.correct, wanted.calibration.correct)
        assert found.calibration.expected_error == pytest.approx(wanted.calibration.expected_error, abs=1e-12)
        assert found.class_counts is None


def test_judging_empties_the_metric_and_adds_seen_and_unseen_classes():
    logits, label = samples(0, 40)
    metric = ClassRecognition(bootstrap=0)
    metric.update(logits, label, torch.arange(40))
    seen = torch.tensor([True, True, False, True])
    found = judge(metric, seen)
    right = logits.argmax(dim=1) == label
    assert found.metrics["seen"] == pytest.approx(float(right[seen[label]].double().mean()))
    assert found.metrics["unseen"] == pytest.approx(float(right[~seen[label]].double().mean()))
    metric.update(logits[:7], label[:7], torch.arange(7))
    again = judge(metric)
    assert again.num_samples == 7
    assert "seen" not in again.metrics


def test_a_head_is_judged_the_same_in_any_batches():
    random = torch.Generator().manual_seed(1)
    features, text = torch.randn(23, 6, generator=random), torch.randn(CLASSES, 6, generator=random)
    label = torch.randint(CLASSES, (23,), generator=random)
    head = ZeroShot()
    head.fit(None, None, text, num_classes=CLASSES)
    found = [recognise(head, features, label, ClassRecognition(bootstrap=0), size) for size in (1, 5, 100)]
    cosine = torch.nn.functional.normalize(features, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    wanted = float((cosine.argmax(dim=1) == label).double().mean())
    assert [one.metrics["accuracy"] for one in found] == pytest.approx([wanted] * 3)
