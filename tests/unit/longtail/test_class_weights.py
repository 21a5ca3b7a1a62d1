"""Weights and priors against the formulas in plain numbers, and against ratios of the field's tables."""

import math

import pytest
import torch
from slow_numbers import COUNTS

from lit_modules.longtail.class_weights import ClassWeighting, class_weights, has_begun, log_prior

CIFAR10 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def slow_weights(counts, kind, beta, total):
    if kind == "balanced":
        raw = [1 / n for n in counts]
    elif kind == "effective":
        raw = [(1 - beta) / (1 - beta**n) for n in counts]
    else:
        raw = [1.0 for _ in counts]
    return [total * w / sum(raw) for w in raw]


@pytest.mark.parametrize("kind", ["none", "balanced", "effective"])
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
@pytest.mark.parametrize(("normalise", "total"), [("classes", 4), ("one", 1)])
def test_weights_equal_the_formula(kind, beta, normalise, total):
    found = class_weights(torch.tensor(COUNTS), kind, beta, normalise)
    assert found.tolist() == pytest.approx(slow_weights(COUNTS, kind, beta, total), rel=1e-10)
    assert found.dtype == torch.float64


@pytest.mark.parametrize(("beta", "ratio"), [(0.9, 1.0), (0.99, 2.5), (0.999, 20), (0.9999, 79)])
def test_the_tails_weight_over_the_heads_on_cifar10_lt(beta, ratio):
    found = class_weights(torch.tensor(CIFAR10), "effective", beta)
    assert (found[-1] / found[0]).item() == pytest.approx(ratio, rel=0.02)


def test_log_prior_is_of_the_type_it_is_for():
    found = log_prior(torch.tensor(COUNTS), torch.zeros(1, dtype=torch.float64))
    assert found.tolist() == pytest.approx([math.log(n / sum(COUNTS)) for n in COUNTS], rel=1e-14)
    assert log_prior(torch.tensor(COUNTS), torch.zeros(1)).dtype == torch.float32


def test_deferred_weights_begin_at_the_epoch_of_the_published_run():
    begun = [has_begun(epoch / 200, 0.8) for epoch in range(200)]
    assert begun == [epoch >= 160 for epoch in range(200)]
    assert [has_begun(epoch / 7, 0.8) for epoch in range(7)] == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"kind": "square"}, "rule.weights.kind='square'"),
        ({"normalise": "sum"}, "rule.weights.normalise='sum'"),
        ({"beta": 1.0}, "rule.weights.beta=1.0"),
        ({"from_fraction": 160}, "rule.weights.from_fraction=160"),
    ],
)
def test_settings_out_of_range_are_refused(settings, key):
    with pytest.raises(ValueError) as error:
        ClassWeighting(**settings)
    assert str(error.value).startswith(key)
