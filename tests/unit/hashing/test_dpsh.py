"""DPSH's loss against a loop over pairs."""

import math

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share, sign

from lit_modules.hashing.dpsh import DPSH, dpsh_loss


def slow_loss(h, values, similar, alpha, signs):
    total = 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            probability = 1 / (1 + math.exp(-dot(row, other) / 2))
            total -= math.log(probability if similar[i][j] else 1 - probability)
    entries = [(x - s) ** 2 for row, of_row in zip(h, signs, strict=True) for x, s in zip(row, of_row, strict=True)]
    return total / (len(h) * len(values)) + alpha * sum(entries) / len(entries)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_loss_and_gradient_equal_the_slow_loop(alpha):
    h, values, similar = draw(4, BITS), draw(7, BITS, seed=1), draw(4, 7, seed=2) > 0
    signs = [[sign(x) for x in row] for row in h.tolist()]
    assert_equals_slow(
        lambda x: dpsh_loss(x, values, similar, alpha)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similar.tolist(), alpha, signs),
        h,
    )


def test_products_of_any_size_stay_finite():
    h = torch.full((1, 4), 1e3, requires_grad=True)
    loss = dpsh_loss(h, -h.detach(), torch.tensor([[True]]), 0.1)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_module_compares_the_batch_with_all_rows_seen_itself_among_them(multi_label):
    module = build(DPSH, multi_label)
    earlier, h, batch = draw(3, BITS, seed=3), draw(4, BITS), batch_of([8, 2, 5, 1], multi_label)
    module.loss({"h": earlier}, batch_of([1, 2, 3], multi_label))
    rows = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    bank = {3: earlier[2], 8: h[0], 2: h[1], 5: h[2], 1: h[3]}
    seen = sorted(bank)
    similar = [[share(rows[i], rows[j]) for j in seen] for i in [8, 2, 5, 1]]
    values = [bank[j].tolist() for j in seen]
    signs = [[sign(x) for x in row] for row in h.tolist()]
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch)["loss"],
        lambda x: slow_loss(x, values, similar, 0.1, signs),
        h,
    )


def test_unseen_rows_add_log_two_where_asked():
    h, batch = draw(2, BITS), batch_of([0, 4])
    seen = build(DPSH).loss({"h": h}, batch)["likelihood"].item()
    with_unseen = build(DPSH, count_unseen_rows=True).loss({"h": h}, batch)["likelihood"].item()
    assert with_unseen == pytest.approx((2 * seen + 8 * math.log(2)) / 10)
