"""metrics.csv, written as the run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from records.metrics_file import (
    KEY_COLUMNS,
    Row,
    columns_of,
    encode_row,
    read_rows,
    write_rows,
)
from records.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    import lightning.pytorch as pl


class MetricsTable(Logger):
    """The logger behind metrics.csv; `records.metrics_file` describes the file.

    What is logged at one step is one row; an epoch's validation and its training means are logged at its last
    step. A new row is appended and flushed; a new column rewrites the file atomically. An existing file is
    continued, never deleted (see `ResumedTable`). Only rank 0 writes.

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
        if self._columns is None:
            self._continue_file()
        if _same_row(self._last, row):
            self._write({**self._last, **row}, replace_last=True)
        else:
            self._write(row, replace_last=False)

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
    """Cut metrics.csv to the checkpoint a run resumes from, before training logs again.

    Lightning's own CSV logger deletes the table instead. A run from the start keeps nothing of an earlier table.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the rows that are later than the restored step."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.keep_before(trainer.global_step)


def _same_row(last: Mapping[str, float], row: Mapping[str, float]) -> bool:
    """Say whether two loggings belong to one row: same epoch, same step, no value in common."""
    in_common = (set(last) & set(row)) - set(KEY_COLUMNS)
    return bool(last) and not in_common and all(last[key] == row[key] for key in KEY_COLUMNS)
