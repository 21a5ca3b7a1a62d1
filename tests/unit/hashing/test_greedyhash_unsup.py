"""Unsupervised GreedyHash: the value of its loss by a loop, its gradient by the rule of the straight-through sign."""

import warnings

import pytest
import torch
from lightning import Trainer
from plain_numbers import cosine, numeric_gradient
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.greedyhash_unsup import GreedyHashUnsup, greedyhash_unsup_loss
from records.notices import RunWarning


def slow_matching(code, features):
    half = len(code) // 2
    return (
        sum((cosine(code[i], code[i + half]) - cosine(features[i], features[i + half])) ** 2 for i in range(half))
        / half
    )


@pytest.mark.parametrize("rows", [6, 7])
def test_value_and_gradient_equal_the_slow_loop(rows):
    generator = torch.Generator().manual_seed(rows)
    h = torch.randn(rows, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    features = torch.randn(rows, 9, dtype=torch.float64, generator=generator)
    loss = greedyhash_unsup_loss(h, features, alpha=0.3, power=3)["loss"]
    loss.backward()
    signs = torch.where(h.detach() > 0, 1.0, -1.0).double()

    def penalty(values):
        return 0.3 * sum(abs(abs(v) - 1) ** 3 for row in values for v in row) / (rows * 4)

    expected = slow_matching(signs.tolist(), features.tolist()) + penalty(h.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-11)
    # the sign hands its gradient on as it is: differences are taken at the signs for one part, at h for the other
    gradient = numeric_gradient(lambda x: slow_matching(x.tolist(), features.tolist()), signs)
    gradient += numeric_gradient(lambda x: penalty(x.tolist()), h.detach())
    torch.testing.assert_close(h.grad, gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_play_no_part(multi_label):
    losses = []
    for seed in (0, 1):
        module, batch = small_task(GreedyHashUnsup, multi_label), small_batch(multi_label=multi_label)
        batch["label"] = small_batch(multi_label=multi_label, seed=seed)["label"]
        losses.append(trained_loss(module, batch))
    assert losses[0] == losses[1]


def test_the_backbone_is_frozen_and_its_batch_norms_too():
    module, batch = small_task(GreedyHashUnsup), small_batch()
    before = {name: tensor.clone() for name, tensor in module.backbone.state_dict().items()}
    trained_loss(module, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in module.backbone.parameters())
    assert all(parameter.grad is not None for parameter in module.hash_layer.parameters())


def test_features_are_centred_unless_the_published_range_is_asked_for():
    batch = small_batch()
    features = small_task(GreedyHashUnsup).encode(batch)
    for similarity, compared in {
        "centred_cosine": features - features.mean(dim=0),
        "published_uncentred_cosine": features,
    }.items():
        module = small_task(GreedyHashUnsup, similarity=similarity)
        module.train()
        outputs = module(batch)
        expected = slow_matching(torch.where(outputs["h"] > 0, 1.0, -1.0).tolist(), compared.tolist())
        assert module.loss(outputs, batch)["matching"].item() == pytest.approx(expected, rel=1e-4)


def test_random_weights_are_said_before_training():
    module = small_task(GreedyHashUnsup)
    with pytest.warns(RunWarning, match="random weights"):
        module.on_fit_start()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        module.eval()


def test_a_step_of_training_moves_only_the_hash_layer():
    module = small_task(GreedyHashUnsup)
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, torch.utils.data.DataLoader([small_batch()], batch_size=None))
    moved = {name for name, tensor in module.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {"hash_layer.weight", "hash_layer.bias"}
