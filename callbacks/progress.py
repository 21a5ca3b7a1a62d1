"""What a run shows while it trains: a bar on a terminal, one line per epoch elsewhere, nothing in quiet mode."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console
from rich.progress import TimeRemainingColumn
from rich.table import Column

from records.console import LINE_SECONDS, ProgressLines, is_quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TextIO

    import lightning.pytorch as pl

BLUE, GREEN = "#0072B2", "#009E73"

# What a person follows; the table holds the rest.
SHOWN = ("train/loss", "val/loss", "val/map@all", "val/accuracy", "train/images_per_second")


def progress_bar(metrics: list[str] | tuple[str, ...] = SHOWN) -> ProgressBar:
    """Choose the display: `MetricsBar` on a terminal, `EpochLines` in a file, a pipe or a notebook's log.

    In quiet mode the lines are disabled. Colours follow the terminal and are left out under NO_COLOR (https://no-color.org).

    Args:
        metrics: names of the metrics to show, in this order; those not logged are left out.
    """
    console = Console()
    if is_quiet():
        silent = EpochLines(tuple(metrics))
        silent.disable()
        return silent
    if console.is_terminal and not console.is_dumb_terminal:
        return MetricsBar(tuple(metrics))
    return EpochLines(tuple(metrics))


class MetricsBar(RichProgressBar):
    """Lightning's bar on one line: the epoch, counted from 1, and the latest value of the chosen metrics.

    The bar itself takes the place that the metrics leave; where that is not enough, the last metrics are cut off.

    Args:
        metrics: names of the metrics to show, in this order.
    """

    def __init__(self, metrics: tuple[str, ...] = SHOWN) -> None:
        theme = RichProgressBarTheme(
            progress_bar=BLUE,
            progress_bar_finished=GREEN,
            progress_bar_pulse=BLUE,
            metrics="",
            metrics_text_delimiter="  ",
        )
        super().__init__(refresh_rate=10, leave=False, theme=theme)
        self._metrics = metrics

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return name to text of the metrics that are logged, and what the module itself put on the bar."""
        own = super().get_metrics(trainer, pl_module)
        own.pop("v_num", None)
        return {**own, **{_label(name): _text(name, value) for name, value in _known(trainer, self._metrics)}}

    @property
    def predict_description(self) -> str:
        """What the bar of `Trainer.predict` says: here it encodes images."""
        return "Encoding"

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return what stands before the metrics: what is done, the bar, batches, the time that is left."""
        what, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = None
        return [what, bar, batches, TimeRemainingColumn()]

    def _init_progress(self, trainer: pl.Trainer) -> None:
        super()._init_progress(trainer)
        if self._metric_component is not None:
            # rich would fold the metrics into a narrow column of many lines
            self._metric_component._table_column = Column(no_wrap=True, overflow="ellipsis")

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {_counted(current_epoch, self.trainer.max_epochs)}".ljust(len(self.validation_description))


class EpochLines(ProgressBar):
    """One line of plain text per epoch: epoch, the chosen metrics, seconds.

    What takes longer than `seconds` says in between how many of its batches are done, and how long the rest will take.

    Args:
        metrics: names of the metrics to show, in this order.
        stream: where to print; None is standard output.
        seconds: between two lines about batches.
    """

    def __init__(
        self, metrics: tuple[str, ...] = SHOWN, stream: TextIO | None = None, seconds: float = LINE_SECONDS
    ) -> None:
        super().__init__()
        self._metrics = metrics
        self._stream = stream
        self._seconds = seconds
        self._enabled = True
        self._begun = 0.0
        self._batches = self._lines("")

    def enable(self) -> None:
        """Print from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing from now on."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line between the epochs' lines."""
        if self._enabled:
            print(*args, file=self._stream or sys.stdout, flush=True, **kwargs)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._begun = time.monotonic()
        self._batches = self._lines(f"epoch {_counted(trainer.current_epoch, trainer.max_epochs)}, batches")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say now and then how many batches of the epoch are done."""
        self._advance(batch_idx, trainer.num_training_batches)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count batches."""
        self._batches = self._lines("validating, batches")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        loader: int = 0,
    ) -> None:
        """Say now and then how many batches are done."""
        self._advance(batch_idx, trainer.num_val_batches, loader)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line."""
        values = dict(_known(trainer, self._metrics))
        self.print(epoch_line(trainer.current_epoch, trainer.max_epochs, values, time.monotonic() - self._begun))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that testing has begun."""
        batches = trainer.num_test_batches
        total = sum(batches) if isinstance(batches, list) else batches
        self.print(f"testing: {total} batches")
        self._batches = self._lines("testing, batches")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        loader: int = 0,
    ) -> None:
        """Say now and then how many batches are done."""
        self._advance(batch_idx, trainer.num_test_batches, loader)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count batches."""
        self._batches = self._lines("encoding, batches")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        loader: int = 0,
    ) -> None:
        """Say now and then how many batches are done."""
        self._advance(batch_idx, trainer.num_predict_batches, loader)

    def _lines(self, what: str) -> ProgressLines:
        return ProgressLines(what, self._seconds, self._stream or sys.stdout)

    def _advance(self, batch: int, batches: Sequence[float] | float, loader: int = 0) -> None:
        """Count a batch of one of the loaders, whose sizes are known or infinite."""
        sizes = list(batches) if isinstance(batches, list) else [float(batches)]  # type: ignore[arg-type]
        if self._enabled and all(math.isfinite(size) for size in sizes):
            self._batches(int(sum(sizes[:loader])) + batch + 1, int(sum(sizes)))


def epoch_line(epoch: int, epochs: int | None, values: Mapping[str, float], seconds: float) -> str:
    """Return the line of one epoch.

    Args:
        epoch: 0-based; printed 1-based, `epoch 3/20`.
        epochs: number of epochs of the run; None or -1 when it is open.
        values: name to value.
        seconds: of the epoch, validation included.
    """
    shown = [f"{_label(name)} {_text(name, value)}" for name, value in values.items()]
    return "  ".join([f"epoch {_counted(epoch, epochs)}", *shown, f"{seconds:.1f} s"])


def _counted(epoch: int, epochs: int | None) -> str:
    return f"{epoch + 1}/{epochs}" if epochs and epochs > 0 else str(epoch + 1)


def _known(trainer: pl.Trainer, names: Iterable[str]) -> list[tuple[str, float]]:
    logged = trainer.callback_metrics
    return [(name, float(logged[name])) for name in names if name in logged]


def _label(name: str) -> str:
    return "images/s" if name == "train/images_per_second" else name


def _text(name: str, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if name == "train/images_per_second" else f"{value:.4f}"
