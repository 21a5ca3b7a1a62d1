"""Features of all images, computed once: a head on a frozen backbone then trains in seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.encoded.cached_features import CachedFeatures
from datamodules.encoded.feature_sets import FeatureSet
from lit_modules.backbones.weights_file import read_state_dict
from lit_modules.base import TaskModule
from modes.initial import frozen_part
from modes.life import Settings
from records.console import progress
from records.environment import is_first_process
from records.errors import UserError


def caches_features(settings: Settings) -> bool:
    """Tell whether features are computed once: `cache_features`, or where that is null what the task says.

    Raises:
        UserError: asked for, and the backbone is trained.
    """
    frozen = frozen_part(settings)
    # with freeze=all nothing is trained, and images are looked at once
    is_frozen = frozen == "backbone"
    asked = settings["cache_features"]
    if asked and frozen == "none":
        raise UserError(
            "cache_features=true: the backbone is trained, so its features change with every step; add freeze=backbone"
        )
    return is_frozen and bool(settings["task"].get("cache_features", False) if asked is None else asked)


def cached_features(
    task: TaskModule, data: ImageDataModule, trainer: Trainer, resumed_from: Path | None = None
) -> CachedFeatures:
    """Compute the features of every split, not augmented, on the trainer's device and in its precision.

    The backbone is that of the checkpoint `resumed_from` where there is one: the fit will load it only later.

    Raises:
        UserError: the data are features already, or draw images to be pasted into others.
    """
    if not isinstance(data, ImageDataModule):
        raise UserError("cache_features=true: these data are features already; leave it out")
    foreground = getattr(data, "foreground", "none")
    if foreground != "none":
        raise UserError(
            f"data.foreground={foreground}: nothing can be pasted into features that are computed once; set "
            "cache_features=false, or data.foreground=none"
        )
    if resumed_from is not None:
        state = read_state_dict(resumed_from, "run")
        names = [name for name in state if name.startswith("backbone.")]
        task.backbone.load_state_dict({name.removeprefix("backbone."): state[name] for name in names})
    device = trainer.strategy.root_device
    task.to(device).eval()
    sets = {split: _features(task, data, split, trainer, device) for split in data.sizes}
    return CachedFeatures(data, sets)


def _features(
    task: TaskModule, data: ImageDataModule, split: str, trainer: Trainer, device: torch.device
) -> FeatureSet:
    loader = data.evaluation_loader(split)
    rows: list[Tensor] = []
    shown = progress(f"features of {split}", is_first_process())
    with shown as advance, torch.no_grad(), trainer.precision_plugin.forward_context():
        for number, batch in enumerate(loader, start=1):
            rows.append(task.encode({"image": batch["image"].to(device)}).float().cpu())
            advance(number, len(loader))
    return FeatureSet(torch.cat(rows), data.labels(split))
