"""metrics.csv: how its rows are written and read.

The first two columns are `epoch` (0-based) and `step` (optimizer step, from 0), the others are named like the
metrics. A cell is empty where a metric was not logged; numbers are written so that reading gives the same
bits.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from records.atomic_file import write_text
from records.errors import UserError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

KEY_COLUMNS = ("epoch", "step")

# These depend on the clock: a resumed run and a straight one agree in every other column.
TIMING_COLUMNS = ("train/images_per_second", "train/data_wait")

Row = dict[str, float]


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of a metrics.csv, without their empty cells.

    A last line that a killed run left unfinished (no line end) is left out.

    Returns:
        One dict per row, columns in the file's order; `epoch` and `step` are whole numbers, others floats.

    Raises:
        UserError: the file does not begin with the columns of this format, or a line does not fit them.
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not lines:
        return []
    header = lines[0]
    if tuple(header[: len(KEY_COLUMNS)]) != KEY_COLUMNS:
        raise UserError(
            f"{path}: the first columns are {header[:2]}, expected {list(KEY_COLUMNS)}. Move the file away."
        )
    return [_read_row(header, cells, f"{path}, line {number}") for number, cells in enumerate(lines[1:], start=2)]


def write_rows(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, float]]) -> None:
    """Replace a metrics.csv by these rows, atomically."""
    lines = [encode_line(columns), *(encode_row(columns, row) for row in rows)]
    write_text(path, "".join(lines))


def columns_of(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """Return `epoch`, `step` and every other column of the rows, in order of appearance."""
    return list(dict.fromkeys([*KEY_COLUMNS, *(name for row in rows for name in row)]))


def encode_row(columns: Sequence[str], row: Mapping[str, float]) -> str:
    """Return one line of the file, with its line end."""
    return encode_line("" if name not in row else _encode_number(row[name]) for name in columns)


def encode_line(cells: Iterable[str]) -> str:
    """Return one line of cells, quoted where CSV needs it, with its line end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(list(cells))
    return line.getvalue()


def _encode_number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _read_row(header: Sequence[str], cells: Sequence[str], where: str) -> Row:
    if len(cells) != len(header):
        raise UserError(f"{where}: {len(cells)} cells where the header has {len(header)}. Move the file away.")
    row: Row = {}
    for name, cell in zip(header, cells, strict=True):
        if cell == "":
            continue
        try:
            row[name] = int(cell) if name in KEY_COLUMNS else float(cell)
        except ValueError:
            raise UserError(f"{where}: {name} is {cell!r}, expected a number. Move the file away.") from None
    return row
