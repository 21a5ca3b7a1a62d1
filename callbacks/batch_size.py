"""The largest batch that fits, searched once and kept: a resumed run trains on with the batches it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder

from records.atomic_file import write_text
from records.errors import UserError
from records.run_directory import RunDirectory


class LargestBatchSize(BatchSizeFinder):
    """Lightning's search for the largest batch that fits in memory, before the first epoch of a new run.

    The result is written to the run's config.yaml as `data.batch_size` and is part of every checkpoint. The optimizer
    and its schedule are built anew after the search, for the number of steps that there now are.

    Args:
        directory: the run directory.
        mode: `power` doubles until memory is full; `binsearch` goes on to the largest number between, less 5 %.
        steps_per_trial: training steps that a size must survive.
        init_val: the first size.
        max_trials: sizes tried at most.
        max_val: largest size.

    Raises:
        UserError: several processes train, each of which would find a size of its own.
    """

    def __init__(
        self,
        directory: str,
        mode: Literal["power", "binsearch"] = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        max_val: int = 8192,
    ) -> None:
        super().__init__(mode, steps_per_trial, init_val, max_trials, max_val=max_val)
        self.run = RunDirectory(Path(directory))
        self.found: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str | None = None) -> None:
        """Refuse what cannot be searched; only training is."""
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise UserError(
                f"callbacks=batch_size_finder searches in one process, and trainer.devices={trainer.num_devices} with "
                f"trainer.num_nodes={trainer.num_nodes} starts {trainer.world_size}; search on one device "
                "(trainer.devices=1) and set data.batch_size to what its config.yaml says"
            )
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Search, or take what the run that is resumed has found."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.found is not None:
            data.batch_size = self.found
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.scale_batch_size(trainer, pl_module)
            self.found = int(data.batch_size)
            self._write_down(self.found)
        # the schedule was made for the steps of the batch size before
        trainer.strategy.setup_optimizers(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing: evaluation has a batch size of its own."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing: evaluation has a batch size of its own."""

    def state_dict(self) -> dict[str, Any]:
        """Return the size that was found."""
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the size that was found."""
        self.found = state_dict["found"]

    def _write_down(self, size: int) -> None:
        settings = yaml.safe_load(self.run.config.read_text(encoding="utf-8"))
        settings["data"]["batch_size"] = size
        write_text(self.run.config, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
