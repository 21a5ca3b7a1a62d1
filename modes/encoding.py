"""Data whose features are made here: the backbone becomes their encoder, and the screen shows how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.encoded.encoded_images import EncodedFewShot
from datamodules.encoded.feature_bank import Report
from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from modes.binding import locate
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
    with progress(backbone.name) as report:
        data.attach_encoder(FrozenEncoder(backbone, device_of(config["trainer"]["accelerator"])), report)
        data.setup("fit")


def device_of(accelerator: str) -> str:
    """Return the device that encodes: what the trainer will use."""
    wants_gpu = accelerator in ("auto", "gpu", "cuda")
    return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"


@contextmanager
def progress(encoder: str) -> Iterator[Report | None]:
    """Show a bar that appears with the first features: a bank that is complete shows none."""
    if not is_first_process():
        yield None
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bars: dict[int, Any] = {}

        def report(done: int, total: int) -> None:
            if total not in bars:
                bars[total] = bar.add_task(f"encoding by {encoder}", total=total)
            bar.update(bars[total], completed=done)

        yield report
