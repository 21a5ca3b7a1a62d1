"""Published figures that stand beside measured ones: a CSV of row, metric, value and source. Torch-free."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from records.errors import UserError

if TYPE_CHECKING:
    import os

COLUMNS = ("row", "metric", "value", "source")
DATA = "data"
"""A column that may follow: the data set of a row whose name several have."""


@dataclass(frozen=True)
class PublishedFigure:
    """What somebody else reported: name of the row it belongs to, `test/NAME`, the value as a fraction, who says so.

    `data` is the data set of the row; "" where the row's name says enough.
    """

    row: str
    metric: str
    value: float
    source: str
    data: str = ""

    def stands_beside(self, row: str, data: str) -> bool:
        """Tell whether it belongs to a row of the board of a data set."""
        return self.row == row and self.data in ("", data)


def read_published(path: str | os.PathLike[str]) -> tuple[PublishedFigure, ...]:
    """Read figures from a CSV with the columns row, metric (`test/NAME` or `NAME`), value, source, and maybe data.

    Raises:
        UserError: the file is missing, has other columns, or a line lacks its source or has no number in [0, 1].
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"published={path}: it cannot be read ({error.strerror})") from None
    lines = csv.DictReader(io.StringIO(text))
    columns = tuple(lines.fieldnames or ())
    if columns not in (COLUMNS, (*COLUMNS, DATA)):
        wanted = ",".join(COLUMNS)
        raise UserError(f"published={path}: the first line is {lines.fieldnames}; it must be {wanted}, or with ,{DATA}")
    return tuple(_figure(line, f"published={path}, line {lines.line_num}") for line in lines)


def _figure(line: dict[str, str], where: str) -> PublishedFigure:
    cells = [line.get(name) for name in COLUMNS]
    if None in line or None in line.values() or not all(cells):
        raise UserError(f"{where}: it must have {len(COLUMNS)} cells that say something: {','.join(COLUMNS)}")
    metric = line["metric"]
    try:
        value = float(line["value"])
    except ValueError:
        raise UserError(f"{where}: value is {line['value']!r}, expected a number") from None
    if not 0 <= value <= 1:
        raise UserError(f"{where}: value is {value:g}; figures are fractions, 0.383 and not 38.3")
    name = metric if "/" in metric else f"test/{metric}"
    return PublishedFigure(line["row"], name, value, line["source"], line.get(DATA, ""))
