"""What the pages in Markdown are written with: tables, and texts that stay within their line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, one line for the head, one for each row; a bar in a cell is escaped."""
    return "\n".join([_row(head), "|" + "---|" * len(head), *map(_row, rows)])


def inline(text: str) -> str:
    """Return a text on one line: a line break would end the table row or the quotation that it stands in."""
    return " ".join(text.split())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
