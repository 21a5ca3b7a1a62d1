"""IDHN's loss against a loop over pairs."""

import math

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw

from lit_modules.hashing.idhn import IDHN, idhn_loss


def cosine(a, b):
    norm = math.sqrt(sum(a) * sum(b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def slow_loss(h, values, similarity, alpha, gamma, weight, published=False):
    bits, total = len(h[0]), 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            product, s = dot(row, other), similarity[i][j]
            if s > 0.99 or s < 0.01:
                total += math.log(1 + math.exp(alpha * product)) - s * alpha * product
            elif published:
                total += gamma * (alpha * product + bits - 2 * s * bits) ** 2
            else:
                total += gamma * bits * ((product + bits) / (2 * bits) - s) ** 2
    entries = [abs(abs(x) - 1) for row in h for x in row]
    return total / (len(h) * len(values)) + weight * sum(entries) / len(entries)


@pytest.mark.parametrize("published", [False, True])
def test_loss_and_gradient_equal_the_slow_loop(published):
    h, values = draw(4, BITS, scale=0.4), draw(7, BITS, seed=1, scale=0.4)
    similarity = torch.tensor([[0.0, 0.5, 1.0, 0.3, 0.9, 0.0, 1.0]] * 4).double().roll(1, 0)
    assert_equals_slow(
        lambda x: idhn_loss(x, values, similarity, 0.5, 0.1, 0.2, published)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similarity.tolist(), 0.5, 0.1, 0.2, published),
        h,
    )


def test_equal_codes_of_equal_similarity_cost_no_square():
    code = torch.ones(1, BITS, dtype=torch.float64)
    nearly = torch.tensor([[0.98]], dtype=torch.float64)
    assert idhn_loss(code, code, nearly, 0.5, 1.0, 0.0)["square"].item() == pytest.approx(BITS * 0.02**2)
    assert idhn_loss(code, code, nearly, 0.5, 1.0, 0.0, True)["square"].item() > BITS


def test_the_module_takes_the_cosine_of_label_rows():
    module, h, rows = build(IDHN, multi_label=True), draw(4, BITS, scale=0.4), [3, 4, 6, 1]
    similarity = [[cosine(MULTI_HOT[i].tolist(), MULTI_HOT[j].tolist()) for j in sorted(rows)] for i in rows]
    assert any(0.01 < s < 0.99 for row in similarity for s in row)
    values = [h[rows.index(j)].tolist() for j in sorted(rows)]
    loss = module.loss({"h": h}, batch_of(rows, multi_label=True))["loss"].item()
    # the cosines of labels are float32
    assert loss == pytest.approx(slow_loss(h.tolist(), values, similarity, 0.5, 0.1, 0.1), rel=1e-6)


@pytest.mark.parametrize(("alpha", "slope"), [(None, 5 / BITS), (0.5, 0.5)])
def test_one_label_per_image_leaves_no_square(alpha, slope):
    h, rows = draw(4, BITS, scale=0.4), [0, 1, 2, 4]
    parts = build(IDHN, alpha=alpha).loss({"h": h}, batch_of(rows))
    similarity = [[float(CLASS_NUMBERS[i] == CLASS_NUMBERS[j]) for j in rows] for i in rows]
    assert parts["square"] == 0
    assert parts["loss"].item() == pytest.approx(slow_loss(h.tolist(), h.tolist(), similarity, slope, 0.1, 0.1))


def test_the_head_is_the_softsign_and_the_bank_keeps_it():
    module = build(IDHN).float()
    features = torch.randn(2, 4)
    h = module.head(features)["h"]
    raw = module.hash_layer(features)
    torch.testing.assert_close(h, raw / (1 + raw.abs()))
    module.loss({"h": h}, batch_of([3, 7]))
    assert torch.equal(module.bank.values[[3, 7]], h.detach())
