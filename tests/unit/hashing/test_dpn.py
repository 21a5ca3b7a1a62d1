"""DPN's hinge against a loop, and the update of its targets by hand."""

import pytest
import torch
from plain_numbers import assert_value_and_gradient
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.dpn import (
    DPN,
    dpn_loss,
    hinge_to_classes,
    hinge_to_target,
    target_votes,
    updated_targets,
)


def slow_dpn(h, target, margin, reduction, square_weight):
    hinges, squares = [], []
    for values, bits in zip(h, target, strict=True):
        hinges.append([margin - v * t if t and v * t < margin else 0.0 for v, t in zip(values, bits, strict=True)])
        squares += [v * v for v in values]
    total = sum(sum(row) for row in hinges)
    entries = len(squares) if reduction == "mean" else len(hinges)
    return total / entries + square_weight * sum(squares) / len(squares)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    h = 2 * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    target = torch.randn(6, 5, dtype=torch.float64, generator=generator).sign()
    target[4] = 0
    return h, target


@pytest.mark.parametrize("reduction", ["mean", "sum_over_bits"])
@pytest.mark.parametrize(("margin", "square_weight"), [(1.0, 0.0), (0.5, 0.1)])
def test_loss_and_gradient_equal_the_slow_loop(batch, reduction, margin, square_weight):
    h, target = batch
    assert_value_and_gradient(
        lambda x: dpn_loss(x, hinge_to_target(x, target, margin), reduction, square_weight)["loss"],
        lambda x: slow_dpn(x, target.tolist(), margin, reduction, square_weight),
        h,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum_over_bits"])
def test_hinges_to_all_classes_of_an_image_add_up(batch, reduction):
    h, _ = batch
    targets = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).sign()
    present = [[0], [1, 2], [], [0, 1, 2], [2], [0, 2]]
    label = torch.tensor([[float(c in classes) for c in range(3)] for classes in present])

    def slow(rows):
        terms = [
            max(0.0, 0.7 - value * target)
            for row, classes in zip(rows, present, strict=True)
            for c in classes
            for value, target in zip(row, targets[c].tolist(), strict=True)
        ]
        return sum(terms) / (len(rows) * len(rows[0]) if reduction == "mean" else len(rows))

    assert_value_and_gradient(
        lambda x: dpn_loss(x, hinge_to_classes(x, targets, label, 0.7), reduction)["loss"], slow, h
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_votes_count_each_class_of_a_sample(multi_label):
    h = torch.tensor([[2.0, -2.0, 0.5], [2.0, 2.0, -3.0], [-4.0, 1.0, 2.0]])
    label = torch.tensor([[1.0, 0], [1, 1], [0, 0]]) if multi_label else torch.tensor([0, 1, 1])
    expected = [[2, 0, -1], [1, 1, -1]] if multi_label else [[1, -1, 0], [0, 1, 0]]
    assert target_votes(h, label, 2, margin=1.0).tolist() == expected


def test_a_tie_keeps_the_old_target_and_never_leaves_a_zero():
    targets = torch.tensor([[1.0, -1.0, 1.0]])
    assert updated_targets(targets, torch.tensor([[-3.0, 0.0, 2.0]])).tolist() == [[-1, -1, 1]]


def test_targets_follow_the_votes_only_where_asked_for():
    for update in (False, True):
        module = small_task(DPN, update_targets=update, gather_batch=update, margin=1e-3)
        targets = module.codebook.signs.clone()
        batch = small_batch()
        h = module(batch)["h"]
        trained_loss(module, batch)
        expected = updated_targets(targets, target_votes(h, batch["label"], 4, 1e-3)) if update else targets
        module.on_train_epoch_end()
        assert torch.equal(module.codebook.signs, expected)
        assert torch.equal(targets, expected) is not update
        assert not module.votes.any()


def test_ranks_must_agree_on_updated_targets():
    with pytest.raises(ValueError, match=r"task\.update_targets=true with task\.gather_batch=false"):
        small_task(DPN, update_targets=True)


def test_several_labels_take_the_majority_of_their_targets():
    module, batch = small_task(DPN, multi_label=True), small_batch(multi_label=True)
    outputs = module(batch)
    target = module.codebook(batch["label"]).tolist()
    assert not any(target[0])
    expected = slow_dpn(outputs["h"].tolist(), target, 1.0, "mean", 0.0)
    assert module.loss(outputs, batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_module_sums_over_classes_where_asked_for_and_images_have_several(multi_label):
    plain, summed = (
        small_task(DPN, multi_label, several_labels=rule, reduction="sum_over_bits") for rule in ("majority", "sum")
    )
    batch = small_batch(multi_label=multi_label)
    outputs = plain(batch)
    loss = summed.loss(outputs, batch)["loss"].item()
    rows, targets = outputs["h"].tolist(), summed.codebook.signs.tolist()
    labels = batch["label"].tolist() if multi_label else torch.eye(4)[batch["label"]].tolist()
    expected = sum(
        slow_dpn([row], [targets[c]], 1.0, "sum_over_bits", 0.0)
        for row, label in zip(rows, labels, strict=True)
        for c in range(4)
        if label[c]
    )
    assert loss == pytest.approx(expected / len(rows), rel=1e-5)
    assert (loss == plain.loss(outputs, batch)["loss"].item()) is not multi_label


def test_the_hash_layer_goes_without_its_bias_where_asked_for():
    assert small_task(DPN).hash_layer.bias is not None
    module = small_task(DPN, hash_layer_bias=False, init_std=0.01)
    assert module.hash_layer.bias is None
    assert trained_loss(module, small_batch()) > 0
