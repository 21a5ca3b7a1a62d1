"""DFH's loss against a loop over pairs, and its centres against autograd on the three terms written out."""

import math

import pytest
import torch
from pair_losses import (
    BITS,
    CLASS_NUMBERS,
    CLASSES,
    MULTI_HOT,
    assert_equals_slow,
    batch_of,
    build,
    dot,
    draw,
    share,
    sign,
)

from lit_modules.hashing.dfh import DFH, class_shares, dfh_loss, refine_centers


def slow_loss(h, values, similar, code, margin, eta):
    total = 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            theta = dot(row, other) / 2
            total += math.log(1 + math.exp(margin - theta if similar[i][j] else margin + theta))
    entries = [(b - x) ** 2 for row, of_row in zip(h, code, strict=True) for x, b in zip(row, of_row, strict=True)]
    return total / (len(h) * len(values)) + eta * sum(entries) / len(entries)


def slow_centers(relaxed, targets, code, inter_weight, sign_weight):
    """Descend on the loss of centres with automatic gradients, (K, C) as in the published code."""
    centers, rate = relaxed.T.clone(), 0.03
    apart = centers.shape[0] * (2 * torch.eye(len(relaxed)) - torch.ones(len(relaxed), len(relaxed))).double()
    for step in range(200):
        centers.requires_grad_()
        intra = (centers @ targets.T - code.T).pow(2).mean()
        inter = (centers.T @ centers - apart).pow(2).mean()
        to_sign = (centers - centers.detach().sign()).pow(2).mean()
        (gradient,) = torch.autograd.grad(intra + inter_weight * inter + sign_weight * to_sign, centers)
        rate = rate * 0.1 if step in (149, 179) else rate
        centers = centers.detach() - rate * gradient
    return centers.T


def targets_of(label):
    if label.ndim == 1:
        return torch.eye(CLASSES).double()[label]
    return torch.tensor([[x / sum(row) if sum(row) else 0.0 for x in row] for row in label.tolist()]).double()


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_loss_and_gradient_equal_the_slow_loop(margin):
    h, values, similar = draw(4, BITS), draw(7, BITS, seed=1), draw(4, 7, seed=2) > 0
    code = draw(4, BITS, seed=3).sign()
    assert_equals_slow(
        lambda x: dfh_loss(x, values, similar, code, margin, 0.5)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similar.tolist(), code.tolist(), margin, 0.5),
        h,
    )


@pytest.mark.parametrize("labels", [CLASS_NUMBERS, MULTI_HOT], ids=["class numbers", "multi-hot"])
def test_centers_equal_those_of_automatic_gradients(labels):
    targets, code, relaxed = targets_of(labels), draw(10, BITS, seed=1).sign(), draw(CLASSES, BITS, scale=0.1)
    refined = refine_centers(relaxed, targets, code, 1.0, 0.7)
    torch.testing.assert_close(refined, slow_centers(relaxed, targets, code, 1.0, 0.7), rtol=1e-9, atol=1e-9)
    assert (refined - relaxed).abs().max() > 0.1


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_centers_of_few_classes_and_many_bits_do_not_diverge(classes):
    targets, code = torch.eye(classes).double(), draw(classes, 128, seed=1).sign()
    relaxed = draw(classes, 128, scale=0.01)
    for _ in range(3):
        relaxed = refine_centers(relaxed, targets, code, 1.0, 1.0)
    # the published rate alone ends in NaN for each of these
    assert relaxed.square().sum(dim=1).max() < 2 * 128


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_code_follows_the_centres_of_the_step_before(multi_label):
    module, h = build(DFH, multi_label, mu=2.0), draw(4, BITS)
    rows = [8, 2, 5, 1]
    batch = batch_of(rows, multi_label)
    module.loss({"h": draw(3, BITS, seed=3)}, batch_of([1, 2, 3], multi_label))
    centers = module.centers.clone()
    assert centers.abs().min() == 1
    pulled = 2.0 * targets_of(batch["label"]) @ centers + h
    code = [[sign(x) for x in row] for row in pulled.tolist()]
    labels = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    bank = {3: draw(3, BITS, seed=3)[2], **dict(zip(rows, h, strict=True))}
    similar = [[share(labels[i], labels[j]) for j in sorted(bank)] for i in rows]
    loss = module.loss({"h": h}, batch)["loss"].item()
    values = [bank[j].tolist() for j in sorted(bank)]
    assert loss == pytest.approx(slow_loss(h.tolist(), values, similar, code, 0.0, 0.5))
    assert not torch.equal(module.relaxed_centers, torch.zeros_like(centers))


def test_the_first_code_is_the_sign_of_h_alone():
    h = draw(3, BITS)
    code = [[sign(x) for x in row] for row in h.tolist()]
    loss = build(DFH, margin=3.0).loss({"h": h}, batch_of([0, 1, 3]))["loss"].item()
    similar = [[i == j for j in range(3)] for i in range(3)]
    assert loss == pytest.approx(slow_loss(h.tolist(), h.tolist(), similar, code, 3.0, 0.5))


def test_a_class_absent_from_the_first_batch_has_a_centre():
    module = build(DFH)
    module.loss({"h": draw(2, BITS)}, batch_of([0, 4]))
    assert module.centers.abs().min() == 1
    published = build(DFH, centers_start_at_zero_as_published=True)
    assert not published.relaxed_centers.any()
    assert torch.equal(build(DFH, seed=5).relaxed_centers, build(DFH, seed=5).relaxed_centers)


@pytest.mark.parametrize("labels", [CLASS_NUMBERS, MULTI_HOT], ids=["class numbers", "multi-hot"])
def test_the_classes_of_an_image_share_its_code(labels):
    torch.testing.assert_close(class_shares(labels, CLASSES, torch.float64), targets_of(labels))


def test_by_default_a_centre_weighs_as_much_as_a_bit_and_there_is_no_margin():
    module, h = build(DFH), torch.full((1, BITS), 0.9, dtype=torch.float64)
    module.centers.fill_(-1)
    loss = module.loss({"h": h}, batch_of([0]))["loss"].item()
    # the centre turns every bit, which a mu of 0.1 would not
    assert loss == pytest.approx(math.log(1 + math.exp(-BITS * 0.81 / 2)) + 0.5 * 1.9**2)


def test_large_products_stay_finite():
    h = torch.full((1, 4), 1e3, requires_grad=True)
    dfh_loss(h, -h.detach(), torch.tensor([[True]]), torch.ones(1, 4), 3.0, 0.5)["loss"].backward()
    assert torch.isfinite(h.grad).all()
    assert h.grad.abs().min() > 0
