"""Images drawn to be pasted into the training images: the data's part of CMO (Park et al., CVPR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.base import ImageDataModule
from datamodules.images.paired import ForegroundView
from datamodules.images.source import Batch
from datamodules.sampling.order import number_repeats
from datamodules.sampling.randomness import Stream, random_seed
from datamodules.sampling.samplers import FOREGROUNDS, Foreground, SamplingRule, draw_epoch
from records.errors import UserError


class ForegroundDraws(ImageDataModule):
    """Hands out a further image, drawn by class, with each training image: stands before the data's class in the bases.

    The further images are a pure function of (seed, epoch) and the place in the epoch, so ranks change nothing.

    Args:
        foreground: none; or balanced, sqrt or effective, as in `SamplingRule`.
        settings: those of the data.

    Raises:
        UserError: there is no such choice.
    """

    def __init__(self, *, foreground: Foreground = "none", **settings: Any) -> None:
        super().__init__(**settings)
        if foreground not in FOREGROUNDS:
            raise UserError(f"data.foreground is {foreground!r}; the choices are {', '.join(FOREGROUNDS)}")
        self.foreground: Foreground = foreground

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of the coming epoch, for this rank, with `foreground` and `foreground_label` where asked for.

        Raises:
            UserError: they are asked for, and images have several classes.
        """
        if self.foreground == "none":
            return super().train_dataloader()
        if self.multi_label:
            raise UserError(
                f"data.foreground is {self.foreground}, which draws by class, and the images of these data have "
                "several classes each; set data.foreground=none"
            )
        epoch, size = self.epoch, self.sizes["train"]
        draws = number_repeats(self.training_order(epoch), size)
        pasted_seed = random_seed(self.seed, 0, Stream.FOREGROUND, 0)
        rule = SamplingRule(self.foreground)
        pasted = number_repeats(draw_epoch(rule, self.labels("train"), pasted_seed, epoch, draws=len(draws)), size)
        pasted_view = self.view("train", epoch, self.augmentation, seed=pasted_seed)
        view = ForegroundView(self.training_view(epoch), pasted_view, draws, pasted)
        return self._training_loader(view, torch.arange(len(draws)), epoch)
