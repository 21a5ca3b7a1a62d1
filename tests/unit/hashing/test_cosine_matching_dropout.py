"""Dropout in the backbone of the unsupervised methods: in training alone, on hash values and target, and repeatable."""

import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from plain_numbers import cosine
from small_tasks import small_batch, small_task
from torch import nn
from torch.utils.data import DataLoader

from callbacks.epoch_seed import EpochSeed
from lit_modules.backbones.backbone import build_backbone
from lit_modules.hashing.bihalf_unsup import BiHalfUnsup
from lit_modules.hashing.cosine_matching import dropouts_of
from lit_modules.hashing.greedyhash_unsup import GreedyHashUnsup
from records.errors import UserError

METHODS = pytest.mark.parametrize("method", [GreedyHashUnsup, BiHalfUnsup])


class VggLike(nn.Sequential):
    """The end of VGG-16 in small: two fully connected layers with a ReLU each, a dropout between them."""

    name, num_features = "vgg_like", 40
    pretrained = SimpleNamespace(used=True)

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(3 * 16 * 16, 40), nn.ReLU(), nn.Dropout(0.4), nn.Linear(40, 40), nn.ReLU()
        )

    def depth_groups(self):
        return {}

    def no_weight_decay(self):
        return set()


def on_vgg_like(method, monkeypatch, **settings):
    monkeypatch.setattr("small_tasks.build_backbone", lambda *_, **__: VggLike())
    return small_task(method, similarity="published_uncentred_cosine", **settings)


@METHODS
def test_hash_values_and_target_are_of_the_features_under_both_dropouts(method, monkeypatch):
    module, batch = on_vgg_like(method, monkeypatch, dropout_as_published=True), small_batch()
    first, second = module.backbone[1], module.backbone[4]
    torch.manual_seed(5)
    features = module.encode(batch)
    torch.manual_seed(5)
    # the two masks are drawn one after the other, and what is kept is scaled up
    hidden = nn.functional.dropout(first(batch["image"].flatten(1)).relu(), 0.4)
    expected = nn.functional.dropout(second(hidden).relu(), 0.4)
    torch.testing.assert_close(features, expected)
    assert not features.requires_grad
    outputs = module.head(features)
    assert torch.equal(outputs["features"], features)
    torch.testing.assert_close(outputs["h"], module.hash_layer(features))


def test_the_loss_compares_the_cosines_of_dropped_features(monkeypatch):
    module, batch = on_vgg_like(GreedyHashUnsup, monkeypatch, dropout_as_published=True), small_batch()
    outputs = module(batch)
    code, features = torch.where(outputs["h"] > 0, 1.0, -1.0).tolist(), outputs["features"].tolist()
    squares = [(cosine(code[i], code[i + 5]) - cosine(features[i], features[i + 5])) ** 2 for i in range(5)]
    assert module.loss(outputs, batch)["matching"].item() == pytest.approx(sum(squares) / 5, rel=1e-4)
    plain = on_vgg_like(GreedyHashUnsup, monkeypatch)(batch)["features"]
    assert (outputs["features"] == 0).sum() > (plain == 0).sum()


@METHODS
def test_codes_are_measured_without_dropout_and_training_has_none_unless_asked_for(method, monkeypatch):
    batch = small_batch()
    asked, plain = (on_vgg_like(method, monkeypatch, dropout_as_published=on) for on in (True, False))
    asked(batch)
    asked.eval()
    assert torch.equal(asked(batch)["h"], asked(batch)["h"])
    assert torch.equal(asked(batch)["h"], plain(batch)["h"])
    assert not torch.equal(asked.train()(batch)["features"], asked(batch)["features"])


def fit(module, epochs, **options):
    batches = [small_batch(start=0), small_batch(start=10, seed=1)]
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[EpochSeed(3)], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(batches, batch_size=None, generator=torch.Generator()), **options)
    return trainer


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(tmp_path, monkeypatch):
    straight, halved, other = (on_vgg_like(GreedyHashUnsup, monkeypatch, dropout_as_published=True) for _ in range(3))
    fit(straight, 2)
    fit(halved, 1).save_checkpoint(tmp_path / "half.ckpt")
    fit(other, 2, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert torch.equal(other.hash_layer.weight, straight.hash_layer.weight)
    without = on_vgg_like(GreedyHashUnsup, monkeypatch)
    fit(without, 2)
    assert not torch.equal(without.hash_layer.weight, straight.hash_layer.weight)


def test_a_backbone_without_dropout_is_refused():
    with pytest.raises(UserError, match=r"task\.dropout_as_published=true: model=tiny has no dropout"):
        small_task(GreedyHashUnsup, dropout_as_published=True)


def test_cached_features_are_refused(monkeypatch):
    module = on_vgg_like(BiHalfUnsup, monkeypatch, dropout_as_published=True)
    batch = {**small_batch(), "feature": torch.rand(10, 40)}
    with pytest.raises(UserError, match="cache_features=true"):
        module(batch)
    assert isinstance(module.eval()(batch)["h"], torch.Tensor)


def test_vgg_16_has_one_of_the_two_dropouts_and_the_other_is_the_method_s():
    with torch.device("meta"):
        backbone = build_backbone("torchvision", "vgg16", False, image_size=32)
    assert [dropout.p for dropout in dropouts_of(backbone)] == [0.5]
    assert [type(layer) for layer in backbone.network.classifier][-2:] == [nn.Linear, nn.ReLU]
