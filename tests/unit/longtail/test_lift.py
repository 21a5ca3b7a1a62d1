"""Adapters beside transformer blocks, where the classifier starts, and what LIFT trains."""

import copy
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_methods import COUNTS, one_step, small_batch, small_method
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.open_clip_networks import ClipTowers
from lit_modules.base import LabelSpace
from lit_modules.longtail.adaptformer import attach_adapters, default_bottleneck
from lit_modules.longtail.lift import LIFT
from lit_modules.longtail.logit_adjustment import adjusted_loss
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant
from records.errors import UserError


def small_vit():
    return build_backbone("timm", "test_vit.r160_in1k", False, image_size=16)


def small_lift(backbone=None, **settings):
    torch.manual_seed(0)
    labels = LabelSpace(4, ("grey_cat", "dog", "owl", "newt"), COUNTS, False, sum(COUNTS))
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.0)
    return LIFT(
        backbone=backbone or small_vit(),
        labels=labels,
        optimization=optimization,
        metric=ClassRecognition(bootstrap=0),
        **{"classifier": "cosine", "scale": 25.0, **settings},
    )


def shake(adapters):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def bottleneck_by_hand(adapter, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    normed = centred / (x.var(dim=-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = (normed * adapter.norm.weight + adapter.norm.bias) @ adapter.down.weight.T + adapter.down.bias
    return (hidden.clamp(min=0) @ adapter.up.weight.T + adapter.up.bias) * adapter.scale


def timm_block_by_hand(block, adapter, x):
    x = x + block.attn(block.norm1(x))
    return x + block.mlp(block.norm2(x)) + bottleneck_by_hand(adapter, x)


def torchvision_block_by_hand(block, adapter, x):
    normed = block.ln_1(x)
    x = x + block.self_attention(normed, normed, normed, need_weights=False)[0]
    return x + block.mlp(block.ln_2(x)) + bottleneck_by_hand(adapter, x)


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_a_block_with_its_adapter_against_the_formula(source):
    torch.manual_seed(0)
    if source == "timm":
        network = small_vit().network.eval()
        blocks, by_hand, width = list(network.blocks), timm_block_by_hand, 64
    else:
        network = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
        blocks, by_hand, width = list(network.encoder.layers), torchvision_block_by_hand, 16
    tokens = torch.randn(2, 5, width)
    plain = copy.deepcopy(blocks)
    adapters = attach_adapters(network, "vit", num_classes=4, bottleneck=3)
    assert len(adapters) == len(blocks)
    for block, untouched in zip(blocks, plain, strict=True):
        torch.testing.assert_close(block(tokens), untouched(tokens))
    shake(adapters)
    for block, untouched, adapter in zip(blocks, plain, adapters, strict=True):
        torch.testing.assert_close(block(tokens), by_hand(untouched, adapter, tokens))


def test_adapters_leave_the_names_of_the_backbone_alone_and_can_be_copied():
    plain = small_vit()
    module = small_lift().eval()
    assert list(module.backbone.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(module)
    shake(twin.adapters)
    images = small_batch()["image"]
    with torch.no_grad():
        torch.testing.assert_close(module.backbone(images), module.backbone(images))
        assert (twin.backbone(images) - module.backbone(images)).abs().max() > 1e-3


@pytest.mark.parametrize(("classes", "blocks", "width"), [(100, 12, 4), (1000, 12, 32), (10, 12, 1), (8142, 12, 256)])
def test_adapters_are_no_larger_than_the_classifier(classes, blocks, width):
    assert default_bottleneck(classes, blocks) == width


def test_adapters_and_classifier_alone_are_trained():
    module = small_lift(bottleneck=4)
    assert not module.backbone.training
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    batch = small_batch(12)
    losses = [one_step(module, batch, lr=0.003)["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]
    assert not module.backbone.training
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone."), name
    outputs = module(batch)
    expected = adjusted_loss(outputs["logits"], batch["label"], torch.tensor(COUNTS))
    assert module.criterion(outputs, batch)["loss"].item() == pytest.approx(expected.item())


def test_a_frozen_backbone_freezes_its_adapters():
    module = small_lift()
    module.freeze_backbone()
    assert {name for name, one in module.named_parameters() if one.requires_grad} == {"classifier.weight"}
    assert not module.train()(small_batch())["features"].requires_grad


class FakeTrainer:
    """What LIFT asks a trainer for before the first step."""

    def __init__(self, batches=(), step=0):
        self.global_step = step
        self.datamodule = SimpleNamespace(evaluation_loader=lambda split: {"train": batches}[split])
        self.strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
        self.precision_plugin = SimpleNamespace(forward_context=nullcontext)


def begin(module, batches=(), step=0):
    module._trainer = FakeTrainer(batches, step)
    module.transfer_batch_to_device = lambda batch, device, place: batch
    module.on_train_start()


def test_the_classifier_starts_from_the_mean_features_of_the_classes():
    module = small_lift().train()
    batches = [small_batch(10, seed=seed) for seed in (1, 2)]
    begin(module, batches)
    with torch.no_grad():
        features = torch.cat([module.backbone(batch["image"]) for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    for c in range(4):
        mean = features[labels == c].mean(dim=0)
        torch.testing.assert_close(module.classifier.weight[c].detach(), mean / mean.norm())


@pytest.mark.parametrize("why", ["resumed", "loaded", "random"])
def test_a_classifier_that_is_trained_or_to_be_random_stays(why):
    module = small_lift(initial_classifier="random" if why == "random" else "auto")
    if why == "loaded":
        module.started_from(("classifier.weight",))
    before = module.classifier.weight.detach().clone()
    begin(module, [small_batch()], step=7 if why == "resumed" else 0)
    assert torch.equal(module.classifier.weight, before)


class Words(nn.Module):
    """A text tower that counts characters."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Parameter(torch.randn(128, width))

    def forward(self, tokens):
        return F.one_hot(tokens, 128).sum(dim=1).float() @ self.table


def with_text():
    backbone = small_vit()
    tokenize = lambda texts: torch.tensor([[*map(ord, text.ljust(40, "\0"))] for text in texts])  # noqa: E731
    backbone.network = ClipTowers(backbone.network, Words(64), tokenize, 64)
    return backbone


def test_the_classifier_of_a_clip_model_starts_from_a_sentence_about_each_class():
    backbone = with_text()
    table = backbone.network.text_tower.table.detach()
    module = small_lift(backbone, template="an image of a {}")
    assert module.initial_classifier == "text"
    begin(module)
    for weight, name in zip(module.classifier.weight.detach(), ("grey cat", "dog", "owl", "newt"), strict=True):
        sentence = f"an image of a {name}"
        text = sum(table[ord(sign)] for sign in sentence) + (40 - len(sentence)) * table[0]
        torch.testing.assert_close(weight, text / text.norm())


def test_text_of_a_model_without_it_and_adapters_of_a_cnn_are_refused():
    with pytest.raises(UserError, match=r"task\.initial_classifier=text.*clip_vit_b16"):
        small_lift(initial_classifier="text")
    with pytest.raises(UserError, match=r"no transformer blocks.*vit_b16"):
        small_method(LIFT, classifier="cosine")
    with pytest.raises(ValueError, match=r"task\.bottleneck"):
        small_lift(bottleneck=0)
