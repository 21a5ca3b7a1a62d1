"""Unsupervised BiHalf: cosines of the half-and-half codes against cosines of the features."""

import pytest
import torch
from plain_numbers import cosine, numeric_gradient
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.bihalf_unsup import BiHalfUnsup


def slow_matching(code, features):
    half = len(code) // 2
    return (
        sum((cosine(code[i], code[i + half]) - cosine(features[i], features[i + half])) ** 2 for i in range(half))
        / half
    )


def slow_halves(h):
    codes = -torch.ones_like(h)
    for bit in range(h.shape[1]):
        for i in sorted(range(len(h)), key=lambda i: -h[i, bit].item())[: len(h) // 2]:
            codes[i, bit] = 1.0
    return codes


@pytest.mark.parametrize("rows", [6, 7])
def test_value_and_gradient_equal_the_slow_loop(rows):
    module = small_task(BiHalfUnsup, similarity="published_uncentred_cosine").double()
    generator = torch.Generator().manual_seed(rows)
    h = torch.randn(rows, 12, dtype=torch.float64, generator=generator, requires_grad=True)
    features = torch.rand(rows, 9, dtype=torch.float64, generator=generator)
    loss = module.loss({"h": h, "features": features}, {})["loss"]
    loss.backward()
    codes = slow_halves(h.detach())
    assert loss.item() == pytest.approx(slow_matching(codes.tolist(), features.tolist()), rel=1e-11)
    gradient = numeric_gradient(lambda x: slow_matching(x.tolist(), features.tolist()), codes)
    gradient += 6 * (h.detach() - codes) / h.numel()
    torch.testing.assert_close(h.grad, gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_play_no_part_and_the_backbone_is_frozen(multi_label):
    losses = []
    for seed in (0, 1):
        module, batch = small_task(BiHalfUnsup, multi_label), small_batch(multi_label=multi_label)
        batch["label"] = small_batch(multi_label=multi_label, seed=seed)["label"]
        losses.append(trained_loss(module, batch))
        assert all(parameter.grad is None for parameter in module.backbone.parameters())
    assert losses[0] == losses[1]


def test_the_mean_of_the_features_survives_a_restart():
    module = small_task(BiHalfUnsup)
    trained_loss(module, small_batch())
    other = small_task(BiHalfUnsup)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.centre.mean, module.centre.mean)
    assert other.centre.count == 10
