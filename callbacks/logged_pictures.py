"""Pictures handed to the loggers that can show them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from records.notices import RunWarning

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lightning.pytorch.loggers import Logger


def log_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Show a PNG in Weights & Biases and TensorBoard, where they log this run; other loggers show no pictures.

    Args:
        loggers: those of the run.
        name: what the picture is called there.
        path: the PNG.
        step: the optimizer step it belongs to.

    Warns:
        RunWarning: a logger fails to take it.
    """
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [str(path)], step=step)
            elif hasattr(logger, "experiment") and hasattr(logger.experiment, "add_image"):
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
                logger.experiment.add_image(name, pixels, global_step=step, dataformats="HWC")
        except Exception as error:  # whatever a logger's own service raises must not cost the run its result
            warnings.warn(f"{type(logger).__name__} did not take the picture {name}: {error}", RunWarning, stacklevel=2)
