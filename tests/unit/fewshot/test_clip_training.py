"""CLIP-LoRA and MMA on a small CLIP with random weights: what trains, what the logits are, what they learn."""

import copy
import math
from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import tiny_clip
from torch.utils.data import DataLoader

from callbacks.checkpoint_io import AtomicCheckpointIO
from launch.compose import compose_config
from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.clip_lora import ClipLora
from lit_modules.fewshot.lora import LoraAttention
from lit_modules.fewshot.mma import Adapter, MultiModalAdapter, SharedProjection
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant
from records.errors import UserError

SENTENCES = [["a dark photo.", "darkness."], ["a bright photo."], ["a red photo."]]


def task(method, backbone, classes=3, **settings):
    labels = LabelSpace(classes, tuple("abcdefgh")[:classes], (4,) * classes, False, 4 * classes)
    optimization = Optimization(partial(torch.optim.AdamW), Constant(), lr=5e-3, weight_decay=0.01)
    return method(backbone, labels, optimization, ClassRecognition(bootstrap=0), **settings)


def images(number=6):
    return torch.rand(number, 3, 16, 16, generator=torch.manual_seed(0))


METHODS = pytest.mark.parametrize(
    ("method", "settings"),
    [(ClipLora, {}), (MultiModalAdapter, {"first_layer": 2, "bottleneck": 16, "adapter_scale": 1.0})],
    ids=["clip_lora", "mma"],
)


@METHODS
def test_logits_are_scaled_cosines_with_the_mean_sentence(method, settings, monkeypatch):
    torch.manual_seed(0)
    backbone = tiny_clip(monkeypatch)
    module = task(method, backbone, scale=50.0, **settings).eval()
    module.set_sentences(SENTENCES)
    with torch.no_grad():
        logits = module({"image": images()})["logits"]
        features = backbone(images())
        for row, image in enumerate(features):
            for label, sentences in enumerate(SENTENCES):
                rows = [F.normalize(one, dim=0) for one in backbone.network.encode_text(sentences)]
                mean = sum(rows) / len(rows)
                expected = 50 * float(image @ mean) / (float(image.norm()) * float(mean.norm()))
                assert float(logits[row, label]) == pytest.approx(expected, abs=1e-3)


def test_lora_starts_from_clip_itself(monkeypatch):
    torch.manual_seed(0)
    backbone = tiny_clip(monkeypatch)
    plain = copy.deepcopy(backbone).eval()
    module = task(ClipLora, backbone).eval()
    with torch.no_grad():
        assert torch.allclose(backbone(images()), plain(images()), atol=1e-6)
        text = [one for sentences in SENTENCES for one in sentences]
        assert torch.allclose(backbone.network.encode_text(text), plain.network.encode_text(text), atol=1e-6)
    module.backbone.load_state_dict(plain.state_dict(), strict=False)
    assert not module.backbone.load_state_dict(plain.state_dict(), strict=False).unexpected_keys


@pytest.mark.parametrize(("towers", "expected"), [("both", 5), ("image", 3), ("text", 2)])
def test_every_layer_of_the_chosen_encoders_is_changed(towers, expected, monkeypatch):
    module = task(ClipLora, tiny_clip(monkeypatch), towers=towers, projections=["q", "v"], rank=4)
    changed = [one for one in module.modules() if isinstance(one, LoraAttention)]
    assert len(changed) == expected
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    assert all("low_rank" in name for name in trained)
    assert sum(one.numel() for one in trained.values()) == sum(4 * 4 * one.embed_dim for one in changed)
    assert changed[0].low_rank["q"].scaling == pytest.approx(1 / math.sqrt(4))


def test_an_adapter_is_a_bottleneck_in_parallel():
    torch.manual_seed(0)
    shared = SharedProjection(3).double()
    adapter = Adapter(5, shared, 3, 0.1).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)

    def linear(layer, row):
        return [
            sum(w * value for w, value in zip(weights, row, strict=True)) + bias
            for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]

    found = adapter(x)
    for place in [(0, 0), (1, 3)]:
        row = [max(value, 0) for value in linear(adapter.down, x[place].tolist())]
        row = [max(value, 0) for value in linear(shared.linear, row)]
        expected = [0.1 * value for value in linear(adapter.up, row)]
        assert found[place].tolist() == pytest.approx(expected)
    torch.autograd.gradcheck(adapter, x.requires_grad_())


def test_the_scale_of_an_adapter_does_not_shorten_its_gradients():
    torch.manual_seed(0)
    scale = 1e-3
    adapter = Adapter(5, SharedProjection(3).double(), 3, scale).double()
    parameters = dict(adapter.named_parameters())
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 5, dtype=torch.float64)

    def formula(down, down_bias, up, up_bias, shared, shared_bias):
        hidden = (x @ down.T + down_bias).clamp(min=0)
        hidden = (hidden @ shared.T + shared_bias).clamp(min=0)
        return scale * (hidden @ up.T + up_bias)

    plain = [one.detach().clone().requires_grad_() for one in parameters.values()]
    expected = formula(*plain)
    gradients = torch.autograd.grad((expected * upstream).sum(), [*plain, x])
    found = adapter(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (found * upstream).sum().backward()
    for (name, one), gradient in zip(parameters.items(), gradients, strict=False):
        torch.testing.assert_close(one.grad, gradient / scale, rtol=1e-10, atol=1e-14, msg=name)
    torch.testing.assert_close(x.grad, gradients[-1], rtol=1e-10, atol=1e-14)


def test_an_adapter_reads_its_block_s_input_after_the_first_norm(monkeypatch):
    torch.manual_seed(0)
    backbone = tiny_clip(monkeypatch)
    plain = copy.deepcopy(backbone.network.visual.transformer.resblocks[2]).eval()
    module = task(MultiModalAdapter, backbone, first_layer=3, bottleneck=4, adapter_scale=0.5).eval()
    torch.nn.init.normal_(plain.ln_1.weight)
    block = module.towers.visual.transformer.resblocks[2]
    block.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(block(x), plain(x) + module.image_adapters[0](plain.ln_1(x)))


def test_adapters_start_without_biases(monkeypatch):
    module = task(MultiModalAdapter, tiny_clip(monkeypatch), first_layer=2, bottleneck=4)
    biases = [one for name, one in module.named_parameters() if one.requires_grad and name.endswith("bias")]
    assert len(biases) == 2 * 2 * 2 + 2
    assert not any(bool(one.any()) for one in biases)


def test_mma_learns_at_the_scale_and_the_rate_of_its_yaml(monkeypatch):
    torch.manual_seed(0)
    settings = compose_config(["task=mma"])
    module = task(
        MultiModalAdapter, tiny_clip(monkeypatch), first_layer=2, adapter_scale=settings.task.adapter_scale
    ).train()
    module.set_sentences(SENTENCES)
    rows = list(Brightness().train_dataloader())
    batch = {name: torch.cat([one[name] for one in rows]) for name in ("image", "label")}
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=settings.optim.lr, momentum=0.9, weight_decay=settings.optim.weight_decay)
    losses = []
    for _ in range(200):
        loss = module.loss(module(batch), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_both_encoders_meet_in_the_shared_projection(monkeypatch):
    torch.manual_seed(0)
    backbone = tiny_clip(monkeypatch)
    plain = copy.deepcopy(backbone).eval()
    module = task(MultiModalAdapter, backbone, first_layer=2, bottleneck=4, adapter_scale=0.1)
    module.set_sentences(SENTENCES)
    assert len(module.shared) == len(module.image_adapters) == len(module.text_adapters) == 2
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    assert all(name.startswith(("shared.", "image_adapters.", "text_adapters.")) for name in trained)
    module.loss(module({"image": images()}), {"label": torch.tensor([0, 1, 2, 0, 1, 2])})["loss"].backward()
    assert all(one.grad is not None for one in module.parameters() if one.requires_grad)
    with torch.no_grad():
        assert not torch.allclose(backbone.eval()(images()), plain(images()), atol=1e-4)
        for adapter in (*module.image_adapters, *module.text_adapters):
            adapter.scale = 0.0
        assert torch.allclose(backbone(images()), plain(images()), atol=1e-6)


def test_a_copy_of_the_task_has_adapters_of_its_own(monkeypatch):
    module = task(MultiModalAdapter, tiny_clip(monkeypatch), first_layer=3, bottleneck=4, adapter_scale=0.1).eval()
    other = copy.deepcopy(module)
    before = module.backbone(images())
    with torch.no_grad():
        other.image_adapters[0].up.weight.mul_(5)
    assert torch.equal(module.backbone(images()), before)
    assert not torch.allclose(other.backbone(images()), before)


@METHODS
def test_gradient_checkpointing_changes_no_gradient(method, settings, monkeypatch):
    found = []
    for enable in (False, True):
        torch.manual_seed(0)
        module = task(method, tiny_clip(monkeypatch, gradient_checkpointing=enable), **settings)
        module.set_sentences(SENTENCES)
        torch.manual_seed(1)
        module.loss(module({"image": images()}), {"label": torch.tensor([0, 1, 2, 0, 1, 2])})["loss"].backward()
        found.append({name: one.grad for name, one in module.named_parameters() if one.requires_grad})
    assert any(bool(gradient.any()) for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name


@pytest.mark.parametrize("first", [0, 1, 4])
def test_layers_that_one_encoder_lacks_are_refused(first, monkeypatch):
    with pytest.raises(UserError, match=r"3 layers and the text encoder 2; choose 2 to 3"):
        task(MultiModalAdapter, tiny_clip(monkeypatch), first_layer=first)


class Brightness(L.LightningDataModule):
    """Dark, bright and red images."""

    class_sentences = SENTENCES

    def _loader(self):
        generator = torch.manual_seed(0)
        rows = []
        for index in range(24):
            label = index % 3
            image = 0.2 * torch.rand(3, 16, 16, generator=generator) + (0.7 if label == 1 else 0.0)
            image[0] += 0.7 if label == 2 else 0.0
            rows.append({"image": image, "label": label, "index": index})
        return DataLoader(rows, batch_size=8)

    train_dataloader = val_dataloader = test_dataloader = _loader


@METHODS
def test_training_learns_and_a_checkpoint_brings_it_back(method, settings, monkeypatch, tmp_path):
    torch.manual_seed(0)
    settings = {**settings, "scale": 20.0}
    backbone = tiny_clip(monkeypatch)
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    start = copy.deepcopy(backbone)
    module = task(method, backbone, **settings)
    runner = L.Trainer(
        max_epochs=12, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=tmp_path, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    runner.fit(module, datamodule=Brightness())
    runner.save_checkpoint(tmp_path / "last.ckpt")
    runner.test(module, datamodule=Brightness(), verbose=False)
    assert module.exact_metrics["test/accuracy"] > 0.9
    kept = module.backbone.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in frozen.items())
    again = task(method, start, **settings)
    runner.test(again, datamodule=Brightness(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert again.exact_metrics["test/accuracy"] == module.exact_metrics["test/accuracy"]


def test_models_that_will_not_do_are_told_from_those_that_will(monkeypatch):
    with pytest.raises(UserError, match="knows nothing of text"):
        task(ClipLora, build_backbone("own", "tiny", False, width=4))
    with pytest.raises(UserError, match="of source own no model has a text tower"):
        build_backbone("own", "tiny", False, width=4, train_text=True)
    with pytest.raises(UserError, match=r"set model\.train_text=true"):
        task(ClipLora, tiny_clip(monkeypatch, train_text=False))
    resnet = tiny_clip(monkeypatch)
    resnet.network.visual.transformer = torch.nn.Identity()
    with pytest.raises(UserError, match="the image encoder of this model is no transformer"):
        task(ClipLora, resnet)
    with pytest.raises(UserError, match="one or several of q, k, v, o"):
        task(ClipLora, tiny_clip(monkeypatch), projections=["x"])
    module = task(ClipLora, tiny_clip(monkeypatch))
    with pytest.raises(UserError, match="sentences for 2 of 3 classes"):
        module.set_sentences(SENTENCES[:2])
