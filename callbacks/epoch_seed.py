"""Randomness of a training epoch as a function of (seed, epoch, rank): a resumed run repeats a straight one."""

from __future__ import annotations

import random

import lightning as L
import numpy as np
import torch


class EpochSeed(L.Callback):
    """Seed Python, NumPy and PyTorch at the start of every training epoch: dropout and drop path follow them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed all generators from (seed, epoch, rank)."""
        words = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))  # noqa: NPY002 the global generator is what third-party code draws from
        torch.manual_seed(int(words[2]))
