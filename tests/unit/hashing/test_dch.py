"""DCH's loss against a loop over pairs."""

import math

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share

from lit_modules.hashing.dch import DCH, dch_loss


def norm(row):
    return math.sqrt(dot(row, row))


def slow_loss(h, similar, gamma, weight, published):
    bits, size = len(h[0]), len(h)
    pairs = [(i, j) for i in range(size) for j in range(size) if published or i != j]
    alike = sum(similar[i][j] for i, j in pairs)
    total = 0.0
    for i, j in pairs:
        cosine = dot(h[i], h[j]) / (norm(h[i]) * norm(h[j]))
        cosine = min(cosine, 0.99) if published else cosine
        distance = bits / 2 * (1 - cosine)
        if similar[i][j]:
            loss = math.log((distance + gamma) / gamma)
        else:
            distance += 0 if published else bits / 2 * 0.01
            loss = math.log((distance + gamma) / distance)
        total += loss * len(pairs) / (alike if similar[i][j] else len(pairs) - alike)
    quantization = 0.0
    for row in h:
        cosine = sum(abs(x) for x in row) / (norm(row) * math.sqrt(bits))
        cosine = min(cosine, 0.99) if published else cosine
        quantization += math.log(1 + bits / 2 * (1 - cosine) / gamma)
    return total / len(pairs) + weight * quantization / size


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_loss_and_gradient_equal_the_slow_loop(multi_label, published):
    options = {"self_pairs_as_published": True, "cosine_clamp_as_published": 0.99} if published else {}
    module, rows = build(DCH, multi_label, **options), [0, 1, 2, 3, 5]
    labels = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    similar = [[share(labels[i], labels[j]) for j in rows] for i in rows]
    batch = batch_of(rows, multi_label)
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch)["loss"],
        lambda x: slow_loss(x, similar, 20.0, 0.1, published),
        draw(5, BITS),
    )


def test_dissimilar_images_with_nearly_equal_codes_are_still_pushed_apart():
    similar = torch.eye(2, dtype=torch.bool)
    h = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.1]], requires_grad=True)
    dch_loss(h, similar, 20.0, 0.0)["loss"].backward()
    assert h.grad.abs().max() > 0.1
    h.grad = None
    dch_loss(h, similar, 20.0, 0.0, self_pairs=True, cosine_clamp=0.99)["loss"].backward()
    assert h.grad.abs().max() == 0


def test_equal_dissimilar_codes_and_zero_values_stay_finite():
    for h in (torch.ones(3, 4), torch.zeros(3, 4), torch.ones(1, 4)):
        h.requires_grad_()
        dch_loss(h, torch.eye(len(h), dtype=torch.bool), 20.0, 0.1)["loss"].backward()
        assert torch.isfinite(h.grad).all()
