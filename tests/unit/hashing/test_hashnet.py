"""HashNet's loss against a loop over pairs, and the growth of its scale."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share

from lit_modules.hashing.hashnet import HashNet, continuation_scale, hashnet_loss
from records.notices import RunWarning


def slow_loss(h, similar, alpha):
    pairs = [(i, j) for i in range(len(h)) for j in range(len(h))]
    alike = sum(similar[i][j] for i, j in pairs)
    total = 0.0
    for i, j in pairs:
        theta = alpha * dot(h[i], h[j])
        weight = len(pairs) / (alike if similar[i][j] else len(pairs) - alike)
        total += weight * (math.log(1 + math.exp(theta)) - similar[i][j] * theta)
    return total / len(pairs)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("alpha", "slope"), [(None, 10 / BITS), (0.1, 0.1)])
def test_loss_and_gradient_equal_the_slow_loop(multi_label, alpha, slope):
    module, rows = build(HashNet, multi_label, alpha=alpha), [0, 1, 2, 3, 5]
    labels = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    similar = [[share(labels[i], labels[j]) for j in rows] for i in rows]
    batch = batch_of(rows, multi_label)
    assert_equals_slow(
        lambda x: module.loss({"h": x}, batch)["loss"], lambda x: slow_loss(x, similar, slope), draw(5, BITS).tanh()
    )


@pytest.mark.parametrize("similar", [True, False])
def test_a_batch_of_one_kind_of_pairs_has_a_finite_loss(similar):
    loss = hashnet_loss(draw(3, BITS), torch.full((3, 3), similar), 0.1)["loss"]
    assert torch.isfinite(loss)


def test_very_negative_products_do_not_overflow():
    h = torch.tensor([[30.0], [-30.0]])
    assert torch.isfinite(hashnet_loss(h, torch.ones(2, 2, dtype=torch.bool), 1.0)["loss"])


def test_the_scale_grows_with_the_root_of_the_stages():
    scales = [continuation_scale(epoch, 20) for epoch in (0, 19, 20, 40, 60)]
    assert scales == pytest.approx([1, 1, math.sqrt(2), math.sqrt(3), 2])


def test_the_head_applies_the_scale_that_the_checkpoint_keeps():
    module = build(HashNet).float()
    features = torch.randn(2, 4)
    module.scale.fill_(3.0)
    torch.testing.assert_close(module.head(features)["h"], (3 * module.hash_layer(features)).tanh())
    assert module.state_dict()["scale"] == 3


@pytest.mark.parametrize(("epochs", "is_told"), [(5, True), (20, True), (21, False), (-1, False)])
def test_a_run_that_ends_before_the_scale_grows_is_told(epochs, is_told, monkeypatch):
    module = build(HashNet)
    monkeypatch.setattr(HashNet, "trainer", SimpleNamespace(max_epochs=epochs))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module.on_fit_start()
    assert [one.category for one in seen] == [RunWarning] * is_told
    if is_told:
        assert f"trainer.max_epochs={epochs} with task.epochs_per_stage=20" in str(seen[0].message)


def test_a_stage_of_no_epoch_is_refused():
    with pytest.raises(ValueError, match=r"task\.epochs_per_stage=0"):
        build(HashNet, epochs_per_stage=0)
