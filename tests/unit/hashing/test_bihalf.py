"""The half-and-half layer against sorting by hand, its gradient by its formula; the supervised method."""

import pytest
import torch
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.bihalf import BiHalf, half_and_half
from lit_modules.hashing.greedyhash import classification_loss


def slow_halves(h):
    codes = [[-1.0] * len(h[0]) for _ in h]
    for bit in range(len(h[0])):
        by_value = sorted(range(len(h)), key=lambda i: (-h[i][bit], i))
        for i in by_value[: len(h) // 2]:
            codes[i][bit] = 1.0
    return codes


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_half_of_each_bit_is_one(rows):
    h = torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert half_and_half(h).tolist() == slow_halves(h.tolist())


def test_of_equal_values_the_first_are_ones():
    assert half_and_half(torch.zeros(5, 2)).tolist() == slow_halves([[0.0, 0.0]] * 5)


@pytest.mark.parametrize("gamma", [0.0, 6.0])
def test_the_gradient_is_the_upstream_one_and_the_pull_to_the_code(gamma):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    upstream = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    half_and_half(h, gamma).backward(upstream)
    codes = slow_halves(h.tolist())
    expected = [
        [upstream[i, k].item() + gamma * (h[i, k].item() - codes[i][k]) / 21 for k in range(3)] for i in range(7)
    ]
    torch.testing.assert_close(h.grad, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("multi_label", [False, True])
def test_training_classifies_halves_and_evaluation_signs(multi_label):
    module, batch = small_task(BiHalf, multi_label), small_batch(multi_label=multi_label)
    module.train()
    outputs = module(batch)
    halves = torch.tensor(slow_halves(outputs["h"].tolist()))
    expected = classification_loss(module.classifier(halves), batch["label"])
    torch.testing.assert_close(module.loss(outputs, batch)["loss"], expected)
    module.eval()
    outputs = module(batch)
    signs = torch.where(outputs["h"] > 0, 1.0, -1.0)
    torch.testing.assert_close(outputs["logits"], module.classifier(signs))


def test_a_step_reaches_the_backbone():
    module = small_task(BiHalf)
    trained_loss(module, small_batch())
    assert all(parameter.grad is not None for parameter in module.parameters())
