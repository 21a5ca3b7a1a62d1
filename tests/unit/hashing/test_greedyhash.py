"""GreedyHash's loss against a loop that looks at one number at a time."""

import math

import pytest
import torch

from lit_modules.hashing.greedyhash import (
    classification_loss,
    greedyhash_loss,
    quantization_penalty,
    sign_straight_through,
)


def slow_loss(logits, h, targets, alpha, power):
    """Return the loss of plain Python numbers; targets are rows of class weights."""
    entropy = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        entropy -= sum(weight * (x - log_sum) for x, weight in zip(row, target, strict=True))
    distances = [abs(abs(value) - 1) ** power for row in h for value in row]
    return entropy / len(logits) + alpha * sum(distances) / len(distances)


def numeric_gradient(function, x, step=1e-6):
    """Return the central difference of function at each entry of x."""
    gradient = torch.zeros_like(x)
    for position in range(x.numel()):
        shifted = [x.clone() for _ in range(2)]
        shifted[0].view(-1)[position] += step
        shifted[1].view(-1)[position] -= step
        gradient.view(-1)[position] = (function(shifted[0]) - function(shifted[1])) / (2 * step)
    return gradient


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    h = 2 * torch.randn(7, 6, dtype=torch.float64, generator=generator)
    label = torch.randint(4, (7,), generator=generator)
    return logits, h, label


@pytest.mark.parametrize("power", [2.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_single_label_loss_and_gradients_equal_the_slow_loop(batch, alpha, power):
    logits, h, label = batch
    targets = [[float(c == y) for c in range(4)] for y in label.tolist()]
    logits.requires_grad_()
    h.requires_grad_()
    loss = greedyhash_loss(logits, h, label, alpha, power)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(slow_loss(logits.tolist(), h.tolist(), targets, alpha, power), rel=1e-12)
    by_h = numeric_gradient(lambda x: slow_loss(logits.tolist(), x.tolist(), targets, alpha, power), h.detach())
    by_logits = numeric_gradient(lambda x: slow_loss(x.tolist(), h.tolist(), targets, alpha, power), logits.detach())
    torch.testing.assert_close(h.grad, by_h, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(logits.grad, by_logits, rtol=1e-6, atol=1e-8)


def test_multi_label_spreads_the_target_over_all_classes(batch):
    logits, h, _ = batch
    label = torch.tensor(
        [[1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )
    targets = [[value / max(sum(row), 1) for value in row] for row in label.tolist()]
    loss = greedyhash_loss(logits, h, label.double(), 0.1, 3.0)["loss"].item()
    assert loss == pytest.approx(slow_loss(logits.tolist(), h.tolist(), targets, 0.1, 3.0), rel=1e-6)


def test_the_first_class_of_a_multi_hot_row_does_not_win():
    label = torch.tensor([[1.0, 1.0]])
    favours_first, favours_second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert classification_loss(favours_first, label) == classification_loss(favours_second, label)


def test_sign_is_one_definition_of_a_bit_and_its_gradient_is_the_identity():
    h = torch.tensor([[-2.0, -0.0, 0.0, 1e-30, 3.0]], requires_grad=True)
    signs = sign_straight_through(h)
    assert signs.tolist() == [[-1.0, -1.0, -1.0, 1.0, 1.0]]
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    signs.backward(upstream)
    assert torch.equal(h.grad, upstream)


def test_penalty_is_zero_on_codes_and_one_at_zero():
    assert quantization_penalty(torch.tensor([[1.0, -1.0]])) == 0
    assert quantization_penalty(torch.zeros(2, 3)) == 1
