"""CLAP's loss and multipliers against loops; its training from the text."""

import math

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot import clap
from lit_modules.fewshot.clap import CLAP, WARM_UP_LR, clap_loss, constraint_weights
from lit_modules.fewshot.episode import Labelled
from lit_modules.fewshot.zeroshot import ZeroShot


def slow_loss(weight, text, multipliers, images, labels, scale):
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = [scale * dot(image, w) / math.sqrt(dot(w, w)) for w in weight]
        top = max(logits)
        total += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[label]
    distances = [
        m * sum((a - b) ** 2 for a, b in zip(w, t, strict=True))
        for m, w, t in zip(multipliers, weight, text, strict=True)
    ]
    return total / len(images) + sum(distances) / len(distances)


def test_loss_and_gradient_equal_the_slow_loop():
    one = problem(classes=3, shots=2, width=4)
    text = 3 * one.text
    weight = (text + 0.3 * torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).detach()
    multipliers = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    moving = weight.clone().requires_grad_()
    loss = clap_loss(moving, text, multipliers, Labelled(one.support, one.labels), 10.0)
    loss.backward()
    rest = (text.tolist(), multipliers.tolist(), one.support.tolist(), one.labels.tolist(), 10.0)
    assert loss.item() == pytest.approx(slow_loss(weight.tolist(), *rest))
    for row in range(3):
        for column in range(4):
            losses = []
            for step in (1e-6, -1e-6):
                shifted = weight.tolist()
                shifted[row][column] += step
                losses.append(slow_loss(shifted, *rest))
            assert moving.grad[row, column].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-6)


def test_multipliers_are_the_zero_shot_probabilities_of_the_own_class():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 3.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    own = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits.tolist()]
    expected = [(own[0][0] + own[1][0]) / 2, own[2][1], 0.0]
    mean = sum(expected) / 3
    assert constraint_weights(logits, labels, "l2").tolist() == pytest.approx(expected)
    corrected = constraint_weights(logits, labels, "l2-corrected").tolist()
    assert corrected == pytest.approx([value / mean for value in expected])
    assert constraint_weights(logits, labels, "l2-constant").tolist() == pytest.approx([mean] * 3)
    assert constraint_weights(logits, labels, "l2-balanced").tolist() == [1, 1, 1]
    assert constraint_weights(logits, labels, "none").tolist() == [0, 0, 0]


def test_training_equals_a_loop_of_sgd_over_the_same_batches():
    one = problem(classes=4, shots=4, width=6)
    head = one.fit(CLAP(epochs=3, lr=0.05, batch_size=5, seed=7))
    text = 10 * one.text
    multipliers = constraint_weights(100 * one.support @ one.text.T, one.labels, "l2")
    weight, velocity = text.clone(), torch.zeros_like(text)
    for epoch in range(3):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(7 * 3 + epoch))
        rate = WARM_UP_LR if epoch == 0 else 0.05 * (1 + math.cos(math.pi * epoch / 3)) / 2
        for start in range(0, 16, 5):
            rows = order[start : start + 5]
            moving = weight.clone().requires_grad_()
            clap_loss(moving, text, multipliers, Labelled(one.support[rows], one.labels[rows]), 100.0).backward()
            velocity = 0.9 * velocity + moving.grad
            weight = weight - rate * velocity
    expected = weight / weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head.state["weight"], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5, 5, 5]), (100, [48])])
def test_an_epoch_over_several_views_has_as_many_batches_as_the_images_fill(batch_size, sizes, monkeypatch):
    one = problem(classes=4, shots=4, width=6, views=3)
    seen = []
    original = clap.clap_loss

    def noted(weight, text, multipliers, batch, scale):
        seen.append(batch.features)
        return original(weight, text, multipliers, batch, scale)

    monkeypatch.setattr(clap, "clap_loss", noted)
    one.fit(CLAP(epochs=2, batch_size=batch_size))
    assert [len(batch) for batch in seen] == 2 * sizes
    if batch_size == 5:
        first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
        assert len(torch.cat([first, second]).unique(dim=0)) > len(first)


def test_it_gains_over_zero_shot_without_validation():
    one = problem(text_error=0.6, shots=8)
    gained = one.accuracy(one.fit(CLAP(epochs=50), validation=None))
    assert gained > one.accuracy(one.fit(ZeroShot())) + 0.05


def test_the_constraint_holds_the_weights_near_the_text():
    one = problem(text_error=0.6, shots=8)
    distances = {}
    for constraint in ("none", "l2-balanced"):
        weight = one.fit(CLAP(epochs=50, constraint=constraint)).state["weight"]
        distances[constraint] = (weight - one.text).norm().item()
    assert distances["l2-balanced"] < distances["none"]


def test_a_stack_of_problems():
    check_stack(lambda: CLAP(epochs=3, batch_size=8))
