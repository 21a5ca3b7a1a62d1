"""Views that hold other things beside images and labels: images to be pasted into others, or no labels at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from datamodules.images.source import Batch, ImageView


@dataclass(frozen=True)
class ForegroundView(Dataset[Batch]):
    """An epoch's images, and beside each another one, drawn to be pasted into it.

    Args:
        background: the epoch's images.
        foreground: what the others are read through, with random numbers of its own.
        draws: int64 (N,), the draw (`ImageView.__getitems__`) of each place of the epoch.
        foreground_draws: int64 (N,), likewise of the others.
    """

    background: ImageView
    foreground: ImageView
    draws: torch.Tensor
    foreground_draws: torch.Tensor

    def __len__(self) -> int:
        return len(self.draws)

    def __getitems__(self, places: list[int]) -> Batch:
        """Read a whole batch, by places in the epoch: what `ImageView` reads, `foreground` and `foreground_label`."""
        pasted = self.foreground.__getitems__(self.foreground_draws[places].tolist())
        batch = self.background.__getitems__(self.draws[places].tolist())
        return {**batch, "foreground": pasted["image"], "foreground_label": pasted["label"]}


@dataclass(frozen=True)
class UnlabelledView(Dataset[Batch]):
    """The views of images, without their labels."""

    view: ImageView

    def __len__(self) -> int:
        return len(self.view)

    def __getitems__(self, draws: list[int]) -> Batch:
        """Read a whole batch: `views` uint8 (V, B, 3, S, S) and `index` int64 (B,)."""
        batch = self.view.__getitems__(draws)
        return {key: batch[key] for key in ("views", "index")}
