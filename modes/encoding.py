"""Data whose features are made here: the backbone becomes their encoder, and the screen shows how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from datamodules.encoded.encoded_images import EncodedFewShot
from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from modes.binding import locate
from records.console import progress
from records.environment import is_first_process


def makes_features(config: Mapping[str, Any]) -> bool:
    """Say whether the data of a configuration encode images, and need trained weights for it, in a test too."""
    target = locate(config["data"]["_target_"])
    return isinstance(target, type) and issubclass(target, EncodedFewShot)


def read_data(data: Any, backbone: Backbone, config: Mapping[str, Any]) -> None:
    """Read the data; where they encode images, by the backbone, on the device that the trainer will use."""
    if not isinstance(data, EncodedFewShot):
        data.setup("fit")
        return
    with progress(f"encoding by {backbone.name}", is_first_process()) as report:
        device = device_of(config["trainer"]["accelerator"])
        data.attach_encoder(data.encoder if data.has_encoder else FrozenEncoder(backbone, device), report)
        data.setup("fit")


def device_of(accelerator: str) -> str:
    """Return the device that encodes: what the trainer will use."""
    wants_gpu = accelerator in ("auto", "gpu", "cuda")
    return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"
