"""A CLIP model of open_clip that is small enough for tests, with random weights."""

import pytest

from lit_modules.backbones.backbone import build_backbone

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}


def register(monkeypatch):
    """Let open_clip know the model `tiny-clip`; skip the test where open_clip is not installed."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra clip (open_clip)")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", TINY_CLIP)


def tiny_clip(monkeypatch, **options):
    register(monkeypatch)
    given = {"train_text": True, **options}
    return build_backbone("open_clip", "tiny-clip", False, **given)
