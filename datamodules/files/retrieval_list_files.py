"""The lists that the hashing literature exchanges: an image's path and its multi-hot labels on every line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from datamodules.files.listing import Entry, Fault, read_text_lines
from records.atomic_file import write_text
from records.errors import UserError

LIST_FILES = {"train": "train.txt", "query": "test.txt", "database": "database.txt"}
"""The usual file of each part; queries are called test there."""


def label_width(line: str) -> int:
    """Count the labels of a line: the numbers at its end, the first word apart, which is the path."""
    width = 0
    for word in reversed(line.split()[1:]):
        if not _is_number(word):
            break
        width += 1
    return width


def parse_list(path: Path, part: str, width: int) -> tuple[list[Entry], list[Fault], int]:
    """Read one list.

    Args:
        path: the file; UTF-8 with or without byte order mark, line ends of any system.
        part: what its images are for.
        width: number of labels C on each line.

    Returns:
        entries; faults; number of blank lines before the last line with anything in it, which are left out.

    Raises:
        UserError: the file cannot be read.
    """
    lines = read_text_lines(path, "data.root or data.lists")
    entries: list[Entry] = []
    faults: list[Fault] = []
    blank = pending = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            pending += 1
            continue
        blank, pending = blank + pending, 0
        found = _parse_line(line, path, number, part, width)
        (entries if isinstance(found, Entry) else faults).append(found)  # type: ignore[arg-type]
    return entries, faults, blank


def _parse_line(line: str, path: Path, number: int, part: str, width: int) -> Entry | Fault:
    words = line.rsplit(maxsplit=width)
    values = words[1:]
    if len(values) == width and _is_plain(words[0]) and all(value in ("0", "1") for value in values):
        hot = tuple(place for place, value in enumerate(values) if value == "1")
        return Entry(words[0].strip(), hot, part, path, number)
    found = label_width(line)
    if not found:
        return Fault(path, number, "no labels", f"{line.strip()[:60]!r} holds a path without labels after it")
    if found != width:
        return Fault(path, number, "wrong number of labels", f"{found} labels, and {width} elsewhere")
    wrong = next(value for value in values if value not in ("0", "1"))
    return Fault(path, number, "labels not multi-hot", f"the label {wrong} is neither 0 nor 1")


def _is_plain(path: str) -> bool:
    """Tell whether nothing that could be a label stands at the end of a path."""
    words = path.split()
    return len(words) == 1 or not _is_number(words[-1])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def list_lines(names: Sequence[str], labels: torch.Tensor) -> Iterator[str]:
    """Write names and multi-hot labels (N, C) as lines of a list.

    Raises:
        UserError: a name would not be read back: it is empty, or has a line end or a number at its end.
    """
    for name, row in zip(names, (labels > 0).int().tolist(), strict=True):
        if not name.strip() or name != name.strip() or len(name.splitlines()) > 1 or not _is_plain(name):
            raise UserError(
                f"data.lists_dir: {name!r} cannot be written to a list, it would not be read back; rename it"
            )
        yield f"{name} {' '.join(map(str, row))}"


def write_list(path: Path, names: Sequence[str], labels: torch.Tensor) -> None:
    """Write a list of names and multi-hot labels (N, C); replaced as a whole or not at all."""
    write_text(path, "".join(f"{line}\n" for line in list_lines(names, labels)))
