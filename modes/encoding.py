"""Data whose features are made here: the backbone becomes their encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from datamodules.encoded.encoded_images import EncodedFewShot, Fill
from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from modes.binding import locate


def makes_features(config: Mapping[str, Any]) -> bool:
    """Say whether the data of a configuration encode images, and need trained weights for it, in a test too."""
    target = locate(config["data"]["_target_"])
    return isinstance(target, type) and issubclass(target, EncodedFewShot)


def read_data(data: Any, backbone: Backbone, config: Mapping[str, Any], fill: Fill | None = None) -> None:
    """Read the data; where they encode images, by the backbone, on the device that the trainer will use.

    `fill`: how their feature banks are filled; None is the way of a run.
    """
    if isinstance(data, EncodedFewShot) and not data.has_encoder:
        data.attach_encoder(FrozenEncoder(backbone, device_of(config["trainer"]["accelerator"])), fill)
    data.setup("fit")


def device_of(accelerator: str) -> str:
    """Return the device that encodes: what the trainer will use."""
    wants_gpu = accelerator in ("auto", "gpu", "cuda")
    return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"
