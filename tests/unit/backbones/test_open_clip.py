"""CLIP models by open_clip, with random weights; and the key map of ConvNeXt V2's own files."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lit_modules.backbones.backbone import Backbone, build_backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from lit_modules.backbones.open_clip_networks import available, needs_quick_gelu
from records.errors import UserError
from records.notices import RunWarning

SENTENCES = ["a photo of a cat.", "a photo of a hot dog."]


def test_quick_gelu_follows_the_weights_and_without_them_the_name() -> None:
    assert needs_quick_gelu("ViT-B-32", "openai", {"quick_gelu": True})
    assert not needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k", {"hf_hub": "x/"})
    assert needs_quick_gelu("ViT-B-32-quickgelu", None, None)
    assert not needs_quick_gelu("ViT-B-32", None, None)
    with pytest.raises(UserError, match=r"plain GELU; set model\.architecture=ViT-B-32$"):
        needs_quick_gelu("ViT-B-32-quickgelu", "laion2b_s34b_b79k", {})


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[clip\]'"):
        available()


@pytest.fixture
def tiny_clip(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip with one more architecture, small enough for tests."""
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", config)
    return open_clip


def build(**options: Any) -> Backbone:
    return build_backbone(**{"source": "open_clip", "architecture": "tiny-clip", "pretrained": False, **options})


def openai_file(open_clip: Any, folder: Path) -> tuple[Path, Any]:
    model = open_clip.create_model("tiny-clip", force_quick_gelu=True).eval()
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    state |= {"input_resolution": torch.tensor(32), "context_length": torch.tensor(12), "vocab_size": torch.tensor(9)}
    safetensors.torch.save_file(state, folder / "openai.safetensors")
    return folder / "openai.safetensors", model


def openai_archive(open_clip: Any, folder: Path) -> tuple[Path, Any]:
    """Write the TorchScript form, in which OpenAI publishes its files."""
    model = open_clip.create_model("tiny-clip", force_quick_gelu=True).eval()
    archived = copy.deepcopy(model)
    for mark, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 9)):
        if hasattr(archived, mark):
            delattr(archived, mark)
        archived.register_buffer(mark, torch.tensor(value))
    torch.jit.script(archived).save(str(folder / "openai.pt"))
    return folder / "openai.pt", model


def as_openai(monkeypatch: pytest.MonkeyPatch, open_clip: Any) -> None:
    """Let the small architecture have weights tagged openai, trained with QuickGELU."""
    known = {"quick_gelu": True, "hf_hub": "nobody/nothing/"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: known if tag == "openai" else {})


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*TorchScript type system")
@pytest.mark.parametrize("written", [openai_file, openai_archive])
def test_openais_own_file_gives_open_clips_features(
    written: Any, tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_openai(monkeypatch, tiny_clip)
    file, model = written(tiny_clip, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        backbone = build(weights="openai", weights_file=str(file))
    encoder = FrozenEncoder(backbone)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in (backbone.mean, backbone.std))
    with torch.no_grad():
        wanted = model.encode_image((images / 255 - mean) / std)
        text = model.encode_text(tiny_clip.get_tokenizer("tiny-clip")(SENTENCES))
    assert torch.allclose(encoder.encode_images(images), wanted, atol=1e-5)
    assert torch.allclose(encoder.encode_text(SENTENCES), text, atol=1e-5)
    assert backbone.pretrained.used


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*TorchScript type system")
@pytest.mark.parametrize("written", [openai_file, openai_archive])
def test_openais_file_is_refused_for_plain_gelu(written: Any, tiny_clip: Any, tmp_path: Path) -> None:
    file, _ = written(tiny_clip, tmp_path)
    with pytest.raises(UserError, match=r"need QuickGELU.*set model\.weights=openai"):
        build(weights_file=str(file))


def test_the_text_tower_is_aside_unless_it_trains(tiny_clip: Any) -> None:
    aside, inside = build(), build(train_text=True)
    assert not any("text" in name for name in aside.state_dict())
    assert any(name.startswith("network.text.") for name in inside.state_dict())
    assert not aside.network.text_tower.training
    assert aside.num_features == 16
    assert set(aside.depth_groups().values()) == {0, 1, 2}
    assert aside.no_weight_decay() == {"network.visual.positional_embedding", "network.visual.class_embedding"}


def test_other_image_sizes_resize_the_positions(
    tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_openai(monkeypatch, tiny_clip)
    file, _ = openai_file(tiny_clip, tmp_path)
    larger = build(weights="openai", weights_file=str(file), image_size=48)
    assert larger(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 16)
    with pytest.raises(UserError, match=r"image_size=40 or 48"):
        build(image_size=44)
    with pytest.raises(UserError, match="images of 224 pixels and no others"):
        build(architecture="RN50", image_size=256)


def test_long_sentences_are_said(tiny_clip: Any) -> None:
    encoder = FrozenEncoder(build())
    with pytest.warns(RunWarning, match="1 sentences fill all 12 tokens"):
        encoder.encode_text(["dog " * 40, "cat"])


def test_the_identity_follows_weights_activation_and_size(tiny_clip: Any) -> None:
    torch.manual_seed(0)
    plain = build()
    identity = FrozenEncoder(plain).identity
    assert identity == FrozenEncoder(plain).identity
    with torch.no_grad():
        plain.network.text_tower.ln_final.bias[0] += 1  # type: ignore[union-attr, index]
    changed = FrozenEncoder(plain).identity
    torch.manual_seed(0)
    other_size = FrozenEncoder(build(image_size=40)).identity
    assert len({identity, changed, other_size}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "ViT-B-33"}, "closest names are ViT-B-32"),
        ({"architecture": "ViT-B-32", "weights": "opnai"}, "no weights of that tag; choose openai"),
        ({"drop_rate": 0.1}, "choose weights, train_text"),
    ],
)
def test_wrong_names_are_told_from_right_ones(tiny_clip: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)


def test_every_published_model_is_listed(tiny_clip: Any) -> None:
    assert "ViT-B-32 openai" in available()


def test_a_backbone_without_text_says_which_have_it() -> None:
    encoder = FrozenEncoder(build_backbone("own", "tiny", False, width=4))
    assert not encoder.has_text
    assert encoder.encode_images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 16)
    with pytest.raises(UserError, match="model=clip_vit_b32"):
        encoder.encode_text(["x"])


def test_encoding_leaves_the_backbone_as_it_was() -> None:
    backbone = build_backbone("own", "tiny", False, width=4).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    features = FrozenEncoder(backbone).encode_images(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))
    assert backbone.training
    assert not features.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def official_convnextv2_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename timm's tensors to those of facebookresearch/ConvNeXt-V2 (models/convnextv2.py)."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("stem.0", "downsample_layers.0.0").replace("stem.1", "downsample_layers.0.1")
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "blocks":
            parts.pop(2)
        elif parts[0] == "stages":
            parts = ["downsample_layers", parts[1], *parts[3:]]
        name = ".".join(parts).replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        if "mlp.grn" in name:
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            tensor = tensor.view(1, 1, 1, -1)
        renamed[name.replace("head.norm", "norm")] = tensor
    return {**renamed, "head.weight": torch.zeros(1000, 320), "head.bias": torch.zeros(1000)}


def test_convnextv2s_own_file_loads_by_timms_key_map(tmp_path: Path) -> None:
    source = build_backbone("timm", "convnextv2_atto", False)
    official = official_convnextv2_names(source.network.state_dict())
    assert "stages.0.0.grn.gamma" in official
    assert "downsample_layers.1.1.weight" in official
    torch.save({"model": official}, tmp_path / "convnextv2.pt")
    loaded = build_backbone("timm", "convnextv2_atto", False, weights_file=str(tmp_path / "convnextv2.pt"))
    for name, tensor in source.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
