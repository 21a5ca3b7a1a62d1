"""DHN's loss against a loop over pairs."""

import math

import pytest
import torch
from pair_losses import BITS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share

from lit_modules.hashing.dhn import DHN, dhn_loss, log_cosh


def slow_loss(h, values, similar, alpha):
    total = 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            probability = 1 / (1 + math.exp(-dot(row, other) / 2))
            total -= math.log(probability if similar[i][j] else 1 - probability)
    entries = [math.log(math.cosh(abs(x) - 1)) for row in h for x in row]
    return total / (len(h) * len(values)) + alpha * sum(entries) / len(entries)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_loss_and_gradient_equal_the_slow_loop(alpha):
    h, values, similar = draw(4, BITS), draw(7, BITS, seed=1), draw(4, 7, seed=2) > 0
    assert_equals_slow(
        lambda x: dhn_loss(x, values, similar, alpha)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similar.tolist(), alpha),
        h,
    )


def test_log_cosh_is_exact_where_cosh_overflows():
    x = torch.tensor([-800.0, -1.0, 0.0, 1.0, 800.0], dtype=torch.float64, requires_grad=True)
    value = log_cosh(x)
    value.sum().backward()
    ends = 800 - math.log(2)
    middle = math.log(math.cosh(1))
    torch.testing.assert_close(value, torch.tensor([ends, middle, 0.0, middle, ends]).double(), rtol=1e-7, atol=1e-15)
    torch.testing.assert_close(x.grad, x.detach().tanh())


def test_images_that_share_one_of_several_labels_are_similar():
    module, h, rows = build(DHN, multi_label=True), draw(4, BITS), [3, 4, 5, 1]
    similar = [[share(MULTI_HOT[i].tolist(), MULTI_HOT[j].tolist()) for j in sorted(rows)] for i in rows]
    values = [h[rows.index(j)].tolist() for j in sorted(rows)]
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch_of(rows, multi_label=True))["loss"],
        lambda x: slow_loss(x, values, similar, 0.1),
        h,
    )
