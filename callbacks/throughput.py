"""How fast a run trains, and how long it waits for data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import lightning.pytorch as pl


class Throughput(Callback):
    """Log `train/images_per_second` (of all ranks together) and `train/data_wait` for every epoch.

    `train/data_wait` is the share of the training time, in [0, 1], that the loop waits for its next batch
    (mean over the ranks). Validation is not counted. These columns depend on the clock and are left out of
    every comparison of runs (`records.metrics_file.TIMING_COLUMNS`).

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._images = 0
        self._waited = 0.0
        self._worked = 0.0
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._images, self._waited, self._worked = 0, 0.0, 0.0
        self._mark = self._clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Count the time since the last batch as waiting."""
        self._waited += self._lap()
        self._images += len(batch["index"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
    ) -> None:
        """Count the time since the batch came as work."""
        # A GPU works on after the call returns; only the epoch's end must be waited for.
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._worked += self._lap()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a validation between two batches out."""
        self._mark = self._clock()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the two numbers of the epoch."""
        spent = self._waited + self._worked
        if self._images == 0 or spent <= 0:
            return
        speed, waiting = self._images / spent, self._waited / spent
        pl_module.log("train/images_per_second", speed, sync_dist=True, reduce_fx="sum", batch_size=1)
        pl_module.log("train/data_wait", waiting, sync_dist=True, batch_size=1)

    def _lap(self) -> float:
        now = self._clock()
        lap, self._mark = now - self._mark, now
        return lap
