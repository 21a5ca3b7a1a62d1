"""OrthoHash against a loop with plain trigonometry; its batch-normed hash layer."""

import math

import pytest
import torch
from plain_numbers import assert_value_and_gradient, cosine, softmax
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.orthohash import OrthoHash, orthohash_loss, quantization_error, with_margin


def slow_margin_softmax(rows, targets, scale, margin, kind):
    total = 0.0
    for row, target in zip(rows, targets, strict=True):
        logits = []
        for value, present in zip(row, target, strict=True):
            if kind == "cos":
                logits.append(scale * (value - margin * (present > 0)))
            else:
                clamped = min(max(value, -0.99999), 0.99999)
                logits.append(scale * math.cos(math.acos(clamped) + margin * (present > 0)))
        total -= sum(share * math.log(p) for share, p in zip(target, softmax(logits), strict=True))
    return total / len(rows)


@pytest.fixture
def cosines():
    return 2 * torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1


LABELS = {
    "single": (torch.tensor([0, 3, 1, 1, 2]), [[float(c == y) for c in range(4)] for y in (0, 3, 1, 1, 2)]),
    "several": (
        torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]),
        [[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0.25] * 4, [0] * 4, [0, 1 / 3, 1 / 3, 1 / 3]],
    ),
}


@pytest.mark.parametrize("kind", ["cos", "arc"])
@pytest.mark.parametrize(("scale", "margin"), [(8.0, 0.2), (3.0, 0.0)])
def test_single_labels_equal_the_slow_loop(cosines, kind, scale, margin):
    label, targets = LABELS["single"]
    assert_value_and_gradient(
        lambda x: orthohash_loss(x, x, label, scale, margin, kind)["loss"],
        lambda x: slow_margin_softmax(x, targets, scale, margin, kind),
        cosines,
    )


@pytest.mark.parametrize("kind", ["cos", "arc"])
def test_several_labels_all_have_the_margin_and_share_the_target(cosines, kind):
    label, targets = LABELS["several"]
    leaf = cosines.clone().requires_grad_()
    loss = orthohash_loss(leaf, leaf, label, kind=kind)["loss"]
    loss.backward()
    # targets are float32 as labels are, which limits the thirds
    assert loss.item() == pytest.approx(slow_margin_softmax(cosines.tolist(), targets, 8.0, 0.2, kind), rel=1e-6)
    assert (leaf.grad[3] == 0).all()
    assert (leaf.grad[[0, 1, 2, 4]] != 0).all()


def test_the_arc_margin_of_a_perfect_cosine_has_a_finite_gradient():
    cosines = torch.tensor([[1.0, -1.0]], requires_grad=True)
    with_margin(cosines, torch.tensor([0]), kind="arc").sum().backward()
    assert torch.isfinite(cosines.grad).all()


def slow_quantization(h, kind):
    total = 0.0
    for row in h:
        code = [1.0 if value > 0 else -1.0 for value in row]
        if kind == "cosine":
            total += 1 - cosine(row, code)
        else:
            power = 1 if kind == "l1" else 2
            total += sum(abs(v - b) ** power for v, b in zip(row, code, strict=True)) / len(row)
    return total / len(h)


@pytest.mark.parametrize("kind", ["cosine", "l1", "l2"])
def test_quantization_equals_the_slow_loop(kind):
    h = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert_value_and_gradient(lambda x: quantization_error(x, kind), lambda x: slow_quantization(x, kind), h)


def test_the_quantization_term_is_added_with_its_weight(cosines):
    label = LABELS["single"][0]
    h = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    without = orthohash_loss(cosines, h, label)
    added = orthohash_loss(cosines, h, label, quantization_weight=0.5, quantization="l1")
    assert set(without) == {"loss"}
    assert added["loss"].item() == pytest.approx(without["loss"].item() + 0.5 * slow_quantization(h.tolist(), "l1"))


def test_the_hash_layer_is_batch_normed_and_without_bias():
    module, batch = small_task(OrthoHash), small_batch()
    assert module.hash_layer.bias is None
    module.train()
    h = module(batch)["h"]
    torch.testing.assert_close(h.mean(dim=0), torch.zeros(12), rtol=0, atol=1e-5)
    assert not torch.equal(module.batch_norm.running_mean, torch.zeros(12))
    module.eval()
    alone = module({name: tensor[:1] for name, tensor in batch.items()})["h"]
    torch.testing.assert_close(alone, module(batch)["h"][:1])


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_step_reaches_the_backbone_and_leaves_the_codebook(multi_label):
    module = small_task(OrthoHash, multi_label)
    codebook = module.codebook.signs.clone()
    assert math.isfinite(trained_loss(module, small_batch(multi_label=multi_label)))
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert torch.equal(module.codebook.signs, codebook)
