"""metrics.csv, written as the run goes on."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from records.metrics_file import (
    KEY_COLUMNS,
    Row,
    columns_of,
    encode_row,
    read_rows,
    write_rows,
)
from records.notices import RunWarning
from records.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    import lightning.pytorch as pl

EPOCH_ROW = "metrics_row"
"""Key of a checkpoint: the row of metrics.csv that belongs to its epoch."""


class MetricsTable(Logger):
    """The logger behind metrics.csv; `records.metrics_file` describes the file.

    What is logged at one step is one row; an epoch's validation and its training means are logged at its last
    step. A new row is appended and flushed; a new column rewrites the file atomically. An existing file is
    continued, never deleted (see `ResumedTable`). Only rank 0 writes. Rows that cannot be written, because the disk
    is full for instance, are kept in memory and written with the next one that can; the run goes on with a warning.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = str(directory)
        self.path = RunDirectory(Path(directory)).metrics
        self._columns: list[str] | None = None
        self._last: Row = {}
        self._last_offset = 0
        self._waiting: list[Row] = []

    @property
    def name(self) -> str:
        """An empty name: the run directory is the name."""
        return ""

    @property
    def version(self) -> str:
        """An empty version: one table per run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return self._directory

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the values of one step.

        Args:
            metrics: name to value; `epoch` (0-based) among them.
            step: number of the optimizer step, counted from 0.
        """
        row: Row = {"epoch": int(metrics.get("epoch", 0)), "step": int(step or 0)}
        row |= {name: float(value) for name, value in metrics.items() if name not in KEY_COLUMNS}
        self._waiting.append(row)
        self._write_waiting()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what could not be written before, if it can be now."""
        self._write_waiting()

    @rank_zero_only
    def sync(self) -> None:
        """Have the system put on the disk what has been written, so that not even a power failure loses it."""
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            self._warn(error)

    def row_at(self, epoch: int, step: int) -> Row:
        """Return what is known of one step, where it is the latest; otherwise an empty row."""
        latest: Row = self._waiting[-1] if self._waiting else self._last
        return dict(latest) if _same_row(latest, {"epoch": epoch, "step": step}) else {}

    @rank_zero_only
    def complete(self, row: Row) -> Row:
        """Add those values of a row that are missing from the table, whose last row it is; return them."""
        rows = read_rows(self.path) if self.path.exists() else []
        present = rows[-1] if rows and _same_row(rows[-1], row) else {}
        missing = {name: value for name, value in row.items() if name not in present and name not in KEY_COLUMNS}
        if missing:
            self.log_metrics({**missing, "epoch": row["epoch"]}, step=int(row["step"]))
        return missing

    @rank_zero_only
    def keep_before(self, step: int) -> int:
        """Drop the rows from `step` on, and every test value; return how many rows.

        A run that resumes after `step` optimizer steps logs these again. The test part is judged after the
        last step, so its values are later than every checkpoint.
        """
        if not self.path.exists():
            return 0
        rows = read_rows(self.path)
        kept = [row for row in rows if row["step"] < step and not any(name.startswith("test/") for name in row)]
        if len(kept) < len(rows):
            write_rows(self.path, columns_of(kept), kept)
        self._columns = None
        return len(rows) - len(kept)

    def _write_waiting(self) -> None:
        # Where an error leaves a part of a row in the file, it is read and mended before the next attempt.
        try:
            while self._waiting:
                self._add(self._waiting[0])
                self._waiting.pop(0)
        except OSError as error:
            self._columns = None
            self._warn(error)
        except BaseException:
            # Ctrl-C and SIGTERM raise between any two lines, and what is remembered of the file may be half true.
            self._columns = None
            raise

    def _add(self, row: Row) -> None:
        if self._columns is None:
            self._continue_file()
        joined = _same_row(self._last, row)
        if joined:
            row = self._waiting[0] = {**self._last, **row}
        self._write(row, replace_last=joined)

    def _warn(self, error: OSError) -> None:
        warnings.warn(
            f"{self.path} cannot be written ({error.strerror}): training goes on, and the rows are kept in memory "
            "until it can be. Free some space on that disk.",
            RunWarning,
            stacklevel=3,
        )

    def _continue_file(self) -> None:
        rows = read_rows(self.path) if self.path.exists() else []
        # Also mends a last line that a killed run left unfinished.
        self._columns = columns_of(rows)
        write_rows(self.path, self._columns, rows)
        self._remember_last(rows)

    def _write(self, row: Row, replace_last: bool) -> None:
        assert self._columns is not None
        new = [name for name in row if name not in self._columns]
        if new:
            rows = read_rows(self.path)
            rows = [*rows[:-1], row] if replace_last else [*rows, row]
            self._columns += new
            write_rows(self.path, self._columns, rows)
            self._remember_last(rows)
            return
        with self.path.open("r+b") as file:
            # A joined row only fills empty cells, so it is longer than the one it replaces and covers it whole.
            offset = self._last_offset if replace_last else file.seek(0, os.SEEK_END)
            self._overwrite(file, offset, encode_row(self._columns, row).encode())
        self._last, self._last_offset = row, offset

    @staticmethod
    def _overwrite(file: BinaryIO, offset: int, line: bytes) -> None:
        file.seek(offset)
        file.write(line)
        file.flush()

    def _remember_last(self, rows: list[Row]) -> None:
        assert self._columns is not None
        self._last = rows[-1] if rows else {}
        self._last_offset = self.path.stat().st_size
        if rows:
            self._last_offset -= len(encode_row(self._columns, rows[-1]).encode())


class ResumedTable(Callback):
    """Bring metrics.csv to where the checkpoint stands that a run resumes from, before training logs again.

    Later rows are cut. The row of the checkpoint's own epoch is completed: its training means are logged after the
    checkpoint is written, so a run that was killed between the two left them in the checkpoint alone.
    Lightning's own CSV logger deletes the table instead. A run from the start keeps nothing of an earlier table.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop every row where nothing is resumed."""
        if trainer.ckpt_path is None:
            for table in _tables(trainer):
                table.keep_before(0)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the epoch's row into the checkpoint, and what is written of the table on the disk."""
        means = _epoch_means(trainer)
        if not means:
            return
        epoch, step = trainer.current_epoch, max(trainer.global_step - 1, 0)
        row: Row = {"epoch": epoch, "step": step}
        for table in _tables(trainer):
            row |= table.row_at(epoch, step)
            table.sync()
        checkpoint[EPOCH_ROW] = {**row, **means}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drop the rows that are later than the checkpoint, and complete its own."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for table in _tables(trainer):
            table.keep_before(checkpoint["global_step"])
            if EPOCH_ROW in checkpoint:
                _tell_others(trainer, table.complete(checkpoint[EPOCH_ROW]) or {}, checkpoint[EPOCH_ROW])


def _tables(trainer: pl.Trainer) -> list[MetricsTable]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsTable)]


def _tell_others(trainer: pl.Trainer, values: Row, row: Row) -> None:
    """Log to the other loggers what the table, the first to be told, has not been told."""
    for logger in trainer.loggers if values else []:
        if not isinstance(logger, MetricsTable):
            logger.log_metrics({**values, "epoch": row["epoch"]}, step=int(row["step"]))


def _epoch_means(trainer: pl.Trainer) -> Row:
    """Return what Lightning is about to log for the epoch that ends; nothing at any other moment."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    # Lightning's own names for "the hooks of an epoch's end", and for what its logger connector will log after them
    results = trainer._results
    if results is None or progress.processed == progress.completed:
        return {}
    return {name: float(value) for name, value in results.metrics(on_step=False)["log"].items()}


def _same_row(last: Mapping[str, float], row: Mapping[str, float]) -> bool:
    """Say whether two loggings belong to one row: same epoch, same step, no value that differs."""
    in_common = set(last) & set(row)
    return bool(last) and set(KEY_COLUMNS) <= in_common and all(_same_value(last[key], row[key]) for key in in_common)


def _same_value(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))
