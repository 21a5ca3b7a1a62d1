"""A picture of training images before and after augmentation, and the images themselves for whoever draws them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.logged_pictures import log_picture
from callbacks.retrieval_pictures import label_text
from records.data_figures import training_images_picture
from records.notices import RunWarning
from records.run_directory import RunDirectory
from records.wandb_names import picture_name

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from records.canvas import Picture

DRAWS = 3


class TrainingImages(Callback):
    """Write plots/training_images.png when training starts, and show it in the loggers.

    Reads `trainer.datamodule.training_view(0)`, the images as the first epoch sees them, and `pictures("train", ...)`,
    as they are stored. Data without images, features from a file for instance, get no picture. Only rank 0 writes, and
    a run that is resumed keeps its picture.

    Warns:
        RunWarning: the picture cannot be written.

    Args:
        directory: the run directory.
        seed: chooses the images.
        images: number of images; all of them where there are fewer.
    """

    def __init__(self, directory: str, seed: int = 0, images: int = 8) -> None:
        self._run = RunDirectory(Path(directory))
        self._seed = seed
        self._images = images

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the picture."""
        path = self._run.training_images
        if not trainer.is_global_zero or path.exists():
            return
        picture = training_images(trainer.datamodule, self._seed, self._images)  # type: ignore[attr-defined]
        if picture is None:
            return
        try:
            picture.save(path)
        except OSError as error:
            # a full disk must not cost the run its training
            warnings.warn(f"{path} cannot be written ({error.strerror}).", RunWarning, stacklevel=2)
            return
        log_picture(trainer.loggers, picture_name("train", path), path, trainer.global_step)


def training_images(data: Any, seed: int, count: int) -> Picture | None:
    """Draw some training images as they are stored, and as the first epochs see them; None for data without images.

    Args:
        data: with `training_view(epoch)`, `pictures(split, positions)`, `sizes` and `class_names`.
        seed: chooses the images.
        count: number of images.
    """
    total = data.sizes["train"]
    if not hasattr(data, "pictures") or total == 0:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    batches = [data.training_view(epoch).__getitems__(chosen.tolist()) for epoch in range(DRAWS)]
    if "image" not in batches[0]:
        return None
    rows = {"stored": data.pictures("train", torch.from_numpy(chosen)).numpy()}
    for epoch, batch in enumerate(batches):
        views = batch["views"] if "views" in batch else batch["image"].unsqueeze(0)
        for number, view in enumerate(views, start=1):
            which = f", view {number}" if len(views) > 1 else ""
            rows[f"epoch {epoch}{which}"] = as_bytes(view)
    labels = batches[0]["label"].numpy()
    labels = labels.astype(bool) if labels.ndim == 2 else labels
    return training_images_picture(rows, [label_text(label, data.class_names) for label in labels])


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Return images, uint8 or float in [0, 1], as uint8."""
    pixels = images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.cpu().numpy()
