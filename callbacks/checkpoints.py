"""Which checkpoints a run keeps: the last whole epoch, and the best one by the validation part."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor


class _EpochCheckpoint(ModelCheckpoint):
    """One file, replaced at the ends of epochs; its state names no folder, so a moved run resumes too."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            # Lightning warns that the folder is not empty, which is how every resumed run begins.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    @property
    def file(self) -> Path:
        """The checkpoint's path."""
        return Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}"


class LastCheckpoint(_EpochCheckpoint):
    """Write last.ckpt at the end of every epoch, after validation: where a run resumes.

    It must stand after `BestCheckpoint` in the list of callbacks, so that last.ckpt knows the best score of
    its own epoch; otherwise a resumed run could replace the best checkpoint by a worse one.

    Args:
        directory: folder of the checkpoints.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(
            dirpath=Path(directory),
            filename="last",
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Prepare the folder.

        Raises:
            UserError: a `BestCheckpoint` comes after this callback.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        later = callbacks[callbacks.index(self) + 1 :]
        if any(isinstance(callback, BestCheckpoint) for callback in later):
            raise UserError(
                "callbacks: LastCheckpoint stands before BestCheckpoint; put LastCheckpoint's entry last, "
                "because last.ckpt must hold the best score of its own epoch."
            )
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the last epoch needs no memory."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take note that the file of the earlier attempt is ours to replace."""
        self.best_model_path = str(self.file)


class BestCheckpoint(_EpochCheckpoint):
    """Write best.ckpt when the monitored validation value is better than ever before; equal is not better.

    Nothing is written for data without a validation part, nor in epochs without validation. The best score is
    part of every checkpoint, so it survives a resume, as are the validation metrics of the best epoch
    (`best_metrics`). A value that is NaN never counts as better than a number.

    Args:
        directory: folder of the checkpoints.
        monitor: full name of the metric, `val/map@all`.
        direction: `max` where a high value is good, `min` where a low one is.

    Raises:
        UserError: another direction, or a monitor that does not begin with `val/` (the test part never chooses).
    """

    def __init__(self, directory: str, monitor: str, direction: Literal["max", "min"]) -> None:
        if direction not in ("max", "min"):
            raise UserError(f"task.direction={direction!r}; choices: max, min.")
        if not monitor.startswith("val/"):
            raise UserError(
                f"monitor={monitor!r}: the best checkpoint is chosen by the validation part; name a metric val/NAME."
            )
        super().__init__(
            dirpath=Path(directory),
            filename="best",
            monitor=monitor,
            mode=direction,
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.best_metrics: dict[str, float] = {}
        """The best epoch's `val/NAME`, float64, of a module that keeps `exact_metrics`; empty for any other."""
        self._validated = False
        self._is_fitting = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note whether epochs follow among which one is chosen."""
        self._is_fitting = stage == "fit"
        super().setup(trainer, pl_module, stage)

    @property
    def best_score(self) -> float | None:
        """The best value so far, as exact as the module keeps it; None before the first validation."""
        if self.best_model_score is None:
            return None
        return self.best_metrics.get(str(self.monitor), float(self.best_model_score))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has fresh validation values."""
        self._validated = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write best.ckpt when the epoch just validated is the best.

        Raises:
            UserError: validation ran and the monitored metric is not among its values.
        """
        if not self._validated:
            return
        self._validated = False
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"task.monitor: {self.monitor} is not logged; choices: {known or 'none'}.")
        super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Say whether a value is better than the best so far; the first one always is."""
        if current is not None and torch.isnan(current):
            # Worse than every number, and decided by the same road on every rank.
            current = torch.full_like(current, -math.inf if self.mode == "max" else math.inf)
        better = super().check_monitor_top_k(trainer, current)
        if better:
            # Before best.ckpt is written, so that it holds its own epoch's values.
            exact: dict[str, float] = getattr(trainer.lightning_module, "exact_metrics", {})
            self.best_metrics = {name: float(value) for name, value in exact.items() if name.startswith("val/")}
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, and the validation metrics of its epoch."""
        return {
            "monitor": self.monitor,
            "direction": self.mode,
            "best_score": self.best_model_score,
            "best_metrics": dict(self.best_metrics),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the earlier attempt's best score, if it is of the same metric and its file is there.

        A test chooses nothing, and its directory may be another one than the run's.
        """
        if not self._is_fitting:
            return
        score = state_dict["best_score"]
        if score is None or (state_dict["monitor"], state_dict["direction"]) != (self.monitor, self.mode):
            return
        if not self.file.is_file():
            warnings.warn(
                f"{self.file} is missing, though the run had reached {self.monitor}={float(score):.4f}: "
                "the best checkpoint is chosen anew from the epochs that follow.",
                RunWarning,
                stacklevel=2,
            )
            return
        path = str(self.file)
        self.best_model_score = self.current_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}
        self.best_metrics = dict(state_dict.get("best_metrics", {}))
