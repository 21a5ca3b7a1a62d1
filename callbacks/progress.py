"""What a run shows while it trains: a bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    import lightning.pytorch as pl

BLUE, GREEN = "#0072B2", "#009E73"

# What a person follows; the table holds the rest.
SHOWN = ("train/loss", "val/loss", "val/map@all", "val/accuracy", "train/images_per_second")


def progress_bar(metrics: list[str] | tuple[str, ...] = SHOWN) -> ProgressBar:
    """Choose the display: `MetricsBar` on a terminal, `EpochLines` in a file, a pipe or a notebook's log.

    Colours follow the terminal and are left out under NO_COLOR (https://no-color.org).

    Args:
        metrics: names of the metrics to show, in this order; those not logged are left out.
    """
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return MetricsBar(tuple(metrics))
    return EpochLines(tuple(metrics))


class MetricsBar(RichProgressBar):
    """Lightning's bar with the latest value of the chosen metrics, by their full names.

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
        return {**own, **{name: _text(name, value) for name, value in _known(trainer, self._metrics)}}


class EpochLines(ProgressBar):
    """One line of plain text per epoch: epoch, the chosen metrics, seconds.

    Args:
        metrics: names of the metrics to show, in this order.
        stream: where to print; None is standard output.
    """

    def __init__(self, metrics: tuple[str, ...] = SHOWN, stream: TextIO | None = None) -> None:
        super().__init__()
        self._metrics = metrics
        self._stream = stream
        self._enabled = True
        self._begun = 0.0

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

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line."""
        values = dict(_known(trainer, self._metrics))
        self.print(epoch_line(trainer.current_epoch, trainer.max_epochs, values, time.monotonic() - self._begun))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that testing has begun."""
        batches = trainer.num_test_batches
        total = sum(batches) if isinstance(batches, list) else batches
        self.print(f"testing: {total} batches")


def epoch_line(epoch: int, epochs: int | None, values: Mapping[str, float], seconds: float) -> str:
    """Return the line of one epoch.

    Args:
        epoch: 0-based; printed 1-based, `epoch 3/20`.
        epochs: number of epochs of the run; None or -1 when it is open.
        values: name to value.
        seconds: of the epoch, validation included.
    """
    counted = f"{epoch + 1}/{epochs}" if epochs and epochs > 0 else str(epoch + 1)
    shown = [f"{_label(name)} {_text(name, value)}" for name, value in values.items()]
    return "  ".join([f"epoch {counted}", *shown, f"{seconds:.1f} s"])


def _known(trainer: pl.Trainer, names: Iterable[str]) -> list[tuple[str, float]]:
    logged = trainer.callback_metrics
    return [(name, float(logged[name])) for name in names if name in logged]


def _label(name: str) -> str:
    return "images/s" if name == "train/images_per_second" else name


def _text(name: str, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if name == "train/images_per_second" else f"{value:.4f}"
