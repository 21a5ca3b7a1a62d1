"""GML by logarithms against the literal formula, its gradient in closed form, and its edges."""

import math

import pytest
import torch
from slow_numbers import COUNTS, LABELS, assert_equals_slow, draw

from lit_modules.longtail.gml import class_mean_log_probabilities, gml_loss

LOGITS = draw(len(LABELS), 4, seed=3)
LABEL = torch.tensor(LABELS)
COUNT = torch.tensor(COUNTS)


def balanced_probabilities(row):
    raw = [n * math.exp(z) for n, z in zip(COUNTS, row, strict=True)]
    return [value / sum(raw) for value in raw]


def slow_gml(rows, power, floor=0.0):
    surprise = []
    for c in sorted(set(LABELS)):
        own = [max(balanced_probabilities(row)[c], floor) for row, y in zip(rows, LABELS, strict=True) if y == c]
        surprise.append(-math.log(sum(own) / len(own)))
    if math.isinf(power):
        return max(surprise)
    return (sum(s**power for s in surprise) / len(surprise)) ** (1 / power)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5, math.inf])
def test_the_loss_equals_the_literal_formula(power):
    assert_equals_slow(lambda z: gml_loss(z, LABEL, COUNT, power), lambda rows: slow_gml(rows, power), LOGITS)


def test_the_floor_of_the_authors_group():
    spread = 6 * LOGITS
    assert_equals_slow(lambda z: gml_loss(z, LABEL, COUNT, 1.0, 1e-3), lambda rows: slow_gml(rows, 1.0, 1e-3), spread)
    assert gml_loss(spread, LABEL, COUNT, 1.0, 1e-3) < gml_loss(spread, LABEL, COUNT)


def test_every_class_present_weighs_the_same_and_the_confident_more_within_it():
    logits = LOGITS.clone().requires_grad_()
    gml_loss(logits, LABEL, COUNT).backward()
    present = sorted(set(LABELS))
    for c in present:
        own = [i for i, y in enumerate(LABELS) if y == c]
        probabilities = {i: balanced_probabilities(LOGITS[i].tolist()) for i in own}
        total = sum(p[c] for p in probabilities.values())
        for i, p in probabilities.items():
            factor = p[c] / total / len(present)
            expected = [-factor * ((k == c) - p[k]) for k in range(4)]
            torch.testing.assert_close(logits.grad[i], torch.tensor(expected, dtype=torch.float64))


def test_hopeless_logits_have_a_finite_loss_and_gradient():
    logits = torch.tensor([[-500.0, 500.0], [600.0, -600.0]], requires_grad=True)
    loss = gml_loss(logits, torch.tensor([0, 1]), torch.tensor([5, 5]))
    loss.backward()
    assert loss.item() == pytest.approx(1100)
    assert logits.grad.abs().max() > 0.1
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("power", [1.0, 2.0, math.inf])
def test_a_batch_that_is_right_has_no_loss_and_a_finite_gradient(power):
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    loss = gml_loss(logits, torch.tensor([0, 1]), torch.tensor([5, 5]), power)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_absent_classes_are_zero_and_have_no_gradient():
    log_p = torch.tensor([-1.0, -3.0], dtype=torch.float64, requires_grad=True)
    means, present = class_mean_log_probabilities(log_p, torch.tensor([2, 2]), 4)
    assert present.tolist() == [False, False, True, False]
    assert means.tolist() == pytest.approx([0, 0, math.log((math.exp(-1) + math.exp(-3)) / 2), 0])
    means.sum().backward()
    assert log_p.grad.sum().item() == pytest.approx(1)
