from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.digits_lt import DigitsLongTail
from datamodules.sampling.order import training_order
from datamodules.sampling.samplers import SamplingRule, class_shares, draw_epoch, has_begun
from records.errors import UserError

COUNTS = (400, 100, 25, 9, 1)
SHUFFLED = torch.randperm(535, generator=torch.Generator().manual_seed(0))
LABELS = torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))[SHUFFLED]


def drawn_classes(rule: SamplingRule, epochs: int = 40) -> np.ndarray:
    drawn = torch.cat([draw_epoch(rule, LABELS, 3, epoch) for epoch in range(epochs)])
    return torch.bincount(LABELS[drawn], minlength=5).numpy() / len(drawn)


@pytest.mark.parametrize("kind", ["balanced", "sqrt", "effective"])
def test_classes_are_drawn_by_the_weights_of_their_images(kind: Any) -> None:
    # written for images, one by one: the weight of an image, summed over those of its class
    beta = 0.99
    weights = {
        "balanced": [1 / n for n in COUNTS],
        "sqrt": [n**0.5 / n for n in COUNTS],
        "effective": [(1 - beta) / (1 - beta**n) for n in COUNTS],
    }[kind]
    totals = [n * weight for n, weight in zip(COUNTS, weights, strict=True)]
    expected = np.array(totals) / sum(totals)
    assert class_shares(np.array(COUNTS), kind, beta) == pytest.approx(expected, rel=1e-12)
    assert drawn_classes(SamplingRule(kind, beta)) == pytest.approx(expected, abs=0.02)


def test_images_of_a_class_are_drawn_evenly_with_replacement() -> None:
    drawn = torch.cat([draw_epoch(SamplingRule("balanced"), LABELS, 0, epoch) for epoch in range(60)])
    times = torch.bincount(drawn, minlength=len(LABELS))[LABELS == 2]
    assert times.min() > 0.75 * times.float().mean()
    assert times.max() < 1.3 * times.float().mean()
    assert len(draw_epoch(SamplingRule("balanced"), LABELS, 0, 0)) == len(LABELS)


def test_class_aware_visits_every_class_in_each_round_and_every_image_before_any_twice() -> None:
    order = draw_epoch(SamplingRule("class_aware", length="max_class"), LABELS, 1, 0)
    assert len(order) == 400 * 5
    visits = LABELS[order].reshape(-1, 4)
    assert (visits == visits[:, :1]).all()
    rounds = visits[:, 0].reshape(-1, 5)
    assert (rounds.sort(dim=1).values == torch.arange(5)).all()
    assert len({tuple(each) for each in rounds.tolist()}) > 20
    times = Counter(order.tolist())
    for label, count in enumerate(COUNTS):
        of_class = [times[place] for place in (label == LABELS).nonzero().flatten().tolist()]
        assert sum(of_class) == 400
        assert max(of_class) - min(of_class) <= 1, count


def test_class_aware_takes_other_visits_and_lengths() -> None:
    order = draw_epoch(SamplingRule("class_aware", samples_per_visit=3), LABELS, 1, 0)
    assert len(order) == len(LABELS)
    visits = LABELS[order[:534]].reshape(-1, 3)
    assert (visits == visits[:, :1]).all()


@pytest.mark.parametrize("kind", ["balanced", "sqrt", "effective", "class_aware"])
def test_an_order_is_a_pure_function_of_seed_and_epoch(kind: Any) -> None:
    rule = SamplingRule(kind)
    first = draw_epoch(rule, LABELS, 0, 5)
    assert torch.equal(first, draw_epoch(rule, LABELS, 0, 5))
    assert not torch.equal(first, draw_epoch(rule, LABELS, 0, 6))
    assert not torch.equal(first, draw_epoch(rule, LABELS, 1, 5))
    assert first.dtype == torch.int64


def test_no_rule_and_a_deferred_one_draw_every_image_once() -> None:
    plain = training_order(len(LABELS), 0, 159)
    assert torch.equal(draw_epoch(SamplingRule(), LABELS, 0, 159), plain)
    deferred = SamplingRule("balanced", from_fraction=0.8)
    assert torch.equal(draw_epoch(deferred, LABELS, 0, 159, 200), plain)
    started = draw_epoch(deferred, LABELS, 0, 160, 200)
    assert torch.equal(started, draw_epoch(SamplingRule("balanced"), LABELS, 0, 160))


@pytest.mark.parametrize(("fraction", "epochs", "first"), [(0.8, 200, 160), (0.28, 25, 7), (0.8, 4, 4), (0, 3, 0)])
def test_a_rule_begins_when_its_share_of_the_epochs_is_done(fraction: float, epochs: int, first: int) -> None:
    rule = SamplingRule("balanced", from_fraction=fraction)
    assert [has_begun(rule, epoch, epochs) for epoch in range(epochs)] == [epoch >= first for epoch in range(epochs)]


def test_a_class_that_a_split_left_empty_does_not_disturb() -> None:
    labels = LABELS[LABELS != 3]
    for kind in ("balanced", "class_aware"):
        drawn = draw_epoch(SamplingRule(kind), labels, 0, 0)
        assert set(labels[drawn].tolist()) == {0, 1, 2, 4}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "balance"}, r"rule\.sampler\.kind is 'balance'; the choices are none, balanced"),
        ({"length": "long"}, r"rule\.sampler\.length is 'long'"),
        ({"beta": 1.0}, r"rule\.sampler\.beta is 1\.0; it must lie in \[0, 1\)"),
        ({"from_fraction": 1.0}, r"rule\.sampler\.from_fraction is 1\.0"),
        ({"samples_per_visit": 0}, r"rule\.sampler\.samples_per_visit is 0"),
        ({"from_fraction": 0.5, "length": "max_class"}, r"set rule\.sampler\.length=images"),
        ({"king": "none"}, r"rule\.sampler\.king is unknown; the choices are kind, beta"),
    ],
)
def test_bad_settings_are_refused_by_key(settings: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        SamplingRule.from_config(settings)


def test_a_data_module_draws_by_its_rule_and_numbers_the_repeats() -> None:
    rule = {"kind": "balanced", "from_fraction": 0.5}
    data = DigitsLongTail(image_size=8, seed=0, batch_size=32, sampler=rule, epochs=4, augment={"crop_padding": 3})
    assert sorted(data.training_order(1).tolist()) == list(range(data.sizes["train"]))
    balanced = torch.bincount(data.labels("train")[data.training_order(2)], minlength=10)
    assert balanced.min() > 10
    view = data.training_view(2)
    last = data.sizes["train"] - 1
    batch = view.__getitems__([last, last + len(view), last + 2 * len(view)])
    assert batch["index"].tolist() == [last] * 3
    assert not torch.equal(batch["image"][0], batch["image"][1])
    with pytest.raises(UserError, match=r"from_fraction is 0\.5.*trainer\.max_epochs\) is -1"):
        DigitsLongTail(image_size=8, seed=0, sampler=rule, epochs=-1)


def test_data_of_several_labels_refuse_a_rule(toy_multi_label: Any) -> None:
    data = toy_multi_label(sampler={"kind": "balanced"})
    with pytest.raises(UserError, match=r"rule\.sampler\.kind is balanced.*set rule=none"):
        data.training_order(0)
