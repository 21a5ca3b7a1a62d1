"""DSH's loss against a loop over pairs and bits."""

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, draw, share

from lit_modules.hashing.dsh import DSH, dsh_loss, squared_distances


def slow_loss(h, values, similar, alpha, margin):
    total = 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            distance = sum((a - b) ** 2 for a, b in zip(row, other, strict=True))
            total += distance / 2 if similar[i][j] else max(0.0, margin - distance) / 2
    entries = [x for row in h for x in row]
    return total / (len(h) * len(values)) + alpha * sum(abs(abs(x) - 1) for x in entries) / len(entries)


@pytest.mark.parametrize("margin", [4.0, 2.0 * BITS, 100.0])
def test_loss_and_gradient_equal_the_slow_loop(margin):
    h, values, similar = draw(4, BITS), draw(7, BITS, seed=1), draw(4, 7, seed=2) > 0
    assert_equals_slow(
        lambda x: dsh_loss(x, values, similar, 0.1, margin)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similar.tolist(), 0.1, margin),
        h,
    )


def test_squared_distances_need_no_differences():
    h, values = draw(4, BITS), draw(7, BITS, seed=1)
    torch.testing.assert_close(squared_distances(h, values), torch.cdist(h, values).square())


def test_the_default_margin_is_twice_the_bits():
    assert build(DSH).margin == 2 * BITS
    assert build(DSH, margin=3.0).margin == 3.0


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_module_compares_the_batch_with_all_rows_seen(multi_label):
    module = build(DSH, multi_label)
    earlier, h, batch = draw(3, BITS, seed=3), draw(4, BITS), batch_of([8, 2, 5, 1], multi_label)
    module.loss({"h": earlier}, batch_of([1, 2, 3], multi_label))
    rows = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    bank = {3: earlier[2], 8: h[0], 2: h[1], 5: h[2], 1: h[3]}
    seen = sorted(bank)
    similar = [[share(rows[i], rows[j]) for j in seen] for i in [8, 2, 5, 1]]
    values = [bank[j].tolist() for j in seen]
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch)["loss"],
        lambda x: slow_loss(x, values, similar, 0.1, 2 * BITS),
        h,
    )


def test_unseen_rows_count_as_dissimilar_zeros_where_asked():
    module = build(DSH, count_unseen_rows=True)
    h = draw(2, BITS, scale=0.3)
    values = torch.zeros(10, BITS, dtype=torch.float64)
    values[0], values[4] = h
    similar = [[j in (0, 4) for j in range(10)]] * 2
    loss = module.loss({"h": h}, batch_of([0, 4]))["loss"].item()
    assert loss == pytest.approx(slow_loss(h.tolist(), values.tolist(), similar, 0.1, 2 * BITS))
    assert loss != pytest.approx(build(DSH).loss({"h": h}, batch_of([0, 4]))["loss"].item())
