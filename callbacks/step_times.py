"""How long single training steps take, and how much memory they need."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    import lightning.pytorch as pl


class StepTimes(Callback):
    """Keep the seconds of every training step, from the end of the one before, and the memory at its highest.

    `seconds` holds one value per step but the `skipped` first ones, in which memory is found and kernels are chosen;
    `peak_bytes` is that of the device, on a CPU of the whole process.

    Args:
        skipped: steps that are not timed.
        clock: seconds that never go back.
    """

    def __init__(self, skipped: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: list[float] = []
        self.peak_bytes = 0
        self._skipped = skipped
        self._clock = clock
        self._mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._mark = self._clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time of the step, waiting for its batch included."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = self._clock()
        if batch_idx >= self._skipped:
            self.seconds.append(now - self._mark)
        self._mark = now

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the memory."""
        self.peak_bytes = peak_memory(pl_module.device)


def peak_memory(device: torch.device) -> int:
    """Return the most memory that torch has held on a GPU, or that this process has held, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
