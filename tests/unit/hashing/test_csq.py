"""CSQ against a loop over single bits that takes plain logarithms."""

import math

import pytest
import torch
from plain_numbers import assert_value_and_gradient
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.csq import CSQ, csq_loss


def slow_csq(u, centre, weight):
    central, penalty, entries = 0.0, 0.0, 0
    for values, bits in zip(u, centre, strict=True):
        for value, bit in zip(values, bits, strict=True):
            entries += 1
            penalty += (abs(math.tanh(value)) - 1) ** 2
            if bit:
                p, target = (math.tanh(value) + 1) / 2, (bit + 1) / 2
                central -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return (central + weight * penalty) / entries


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    centre = torch.randn(6, 5, dtype=torch.float64, generator=generator).sign()
    centre[2] = 0
    return u, centre


@pytest.mark.parametrize("weight", [0.0, 1e-4, 1.0])
def test_loss_and_gradient_equal_the_slow_loop(batch, weight):
    u, centre = batch
    assert_value_and_gradient(
        lambda x: csq_loss(x, centre, weight)["loss"], lambda x: slow_csq(x, centre.tolist(), weight), u
    )


def test_a_sample_without_centre_has_no_pull(batch):
    u, centre = batch
    leaf = u.clone().requires_grad_()
    csq_loss(leaf, centre, 0.0)["loss"].backward()
    assert (leaf.grad[2] == 0).all()
    assert (leaf.grad[[0, 1, 3, 4, 5]] != 0).all()


def test_values_far_out_stay_finite():
    u = torch.tensor([[60.0, -60.0]], requires_grad=True)
    losses = csq_loss(u, torch.tensor([[-1.0, -1.0]]))
    losses["loss"].backward()
    assert losses["central"].item() == pytest.approx(60)
    assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_that_of_the_codebook(multi_label):
    module, batch = small_task(CSQ, multi_label), small_batch(multi_label=multi_label)
    outputs = module(batch)
    present = batch["label"] if multi_label else torch.eye(4)[batch["label"]]
    votes = torch.stack([module.codebook.signs[row.nonzero()[:, 0]].sum(dim=0) for row in present])
    centre = torch.where(votes == 0, module.codebook.tie, votes.sign())
    if multi_label:
        centre[0] = 0
    expected = slow_csq(outputs["u"].tolist(), centre.tolist(), 1e-4)
    assert module.loss(outputs, batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(outputs["h"], outputs["u"].tanh())


def test_a_step_reaches_the_backbone_and_leaves_the_centres():
    module, batch = small_task(CSQ), small_batch()
    centres = module.codebook.signs.clone()
    trained_loss(module, batch)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert torch.equal(module.codebook.signs, centres)
    assert module(batch)["logits"].shape == (10, 4)
