"""DTSH's loss against a loop over triplets."""

import math

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share, sign

from lit_modules.hashing.dtsh import DTSH, dtsh_loss


def slow_loss(h, similar, margin, weight, signs, itself):
    size, of_anchors = len(h), []
    for a in range(size):
        triplets = [
            math.log(1 + math.exp(-(dot(h[a], h[p]) - dot(h[a], h[n]) - margin)))
            for p in range(size)
            for n in range(size)
            if similar[a][p] and not similar[a][n] and a != n and (itself or a != p)
        ]
        if triplets:
            of_anchors.append(sum(triplets) / len(triplets))
    entries = [(x - s) ** 2 for row, of_row in zip(h, signs, strict=True) for x, s in zip(row, of_row, strict=True)]
    mean = sum(of_anchors) / len(of_anchors) if of_anchors else 0.0
    return mean + weight * sum(entries) / len(entries)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize(("margin", "expected"), [(None, BITS), (5.0, 5.0)])
def test_loss_and_gradient_equal_the_slow_loop(multi_label, itself, margin, expected):
    module = build(DTSH, multi_label, margin=margin, anchor_is_positive_as_published=itself)
    rows, h = [0, 1, 2, 4, 5, 6], draw(6, BITS, scale=1.0)
    labels = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    similar = [[share(labels[i], labels[j]) for j in rows] for i in rows]
    signs = [[sign(x) for x in row] for row in h.tolist()]
    batch = batch_of(rows, multi_label)
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch)["loss"],
        lambda x: slow_loss(x, similar, expected, 1.0, signs, itself),
        h,
    )


def test_a_batch_without_triplets_leaves_the_quantisation():
    h = draw(3, BITS).requires_grad_()
    for similar in (torch.ones(3, 3, dtype=torch.bool), torch.eye(3, dtype=torch.bool)):
        parts = dtsh_loss(h, similar, 5.0, 1.0)
        parts["loss"].backward()
        assert parts["triplets"] == 0
        assert parts["loss"] == parts["quantization"]
    assert torch.isfinite(h.grad).all()


def test_far_triplets_keep_their_gradient():
    h = torch.tensor([[100.0], [-100.0], [100.0]], requires_grad=True)
    similar = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    loss = dtsh_loss(h, similar, 5.0, 0.0)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert h.grad[0].abs() > 10
