"""A CSV table of images: which columns hold the path, the class or classes, and the part."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from datamodules.files.listing import PART_NAMES, Entry, Fault, Listing, gather, read_text_lines, refuse
from records.errors import UserError

Classes = Callable[[Mapping[str, str]], tuple[int, ...]]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table.

    Args:
        path: the image's path.
        label: its class by name or number, or its classes with a separator between them.
        label_separator: what stands between classes; None for a single one.
        labels: columns of multi-hot labels, 0 or 1, one for each class; None takes `label`.
        part: the part an image belongs to; None where the parts are drawn.
    """

    path: str
    label: str
    label_separator: str | None = None
    labels: Sequence[str] | None = None
    part: str | None = None

    @property
    def several_classes(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels is not None or self.label_separator is not None

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        labels = (self.label,) if self.labels is None else tuple(self.labels)
        return (self.path, *labels, *(() if self.part is None else (self.part,)))


def read_table(path: Path, columns: Columns, delimiter: str, class_names: Sequence[str] | None) -> Listing:
    """Read a table with a header.

    Args:
        path: the file; UTF-8 with or without byte order mark.
        columns: which columns to read.
        delimiter: a single character between columns.
        class_names: the classes in order; None takes those that occur, numbers by value and names by alphabet.

    Raises:
        UserError: a column is missing, or rows are faulty, with all of them counted.
    """
    rows, faults = _rows(path, columns, delimiter)
    if columns.labels is not None:
        names = tuple(columns.labels)
    elif class_names is not None:
        names = tuple(class_names)
    else:
        names = class_order({one for _, row in rows for one in _classes_of(row, columns)})
    number = {name: place for place, name in enumerate(names)}
    entries: list[Entry] = []
    for line, row in rows:
        found = _entry(row, columns, number, path, line)
        (entries if isinstance(found, Entry) else faults).append(found)  # type: ignore[arg-type]
    refuse(sorted(faults), f"The columns {', '.join(columns.all)} are read (data.path_column, data.label_column, ...).")
    return gather(entries, names, multi_label=columns.several_classes)


def class_order(names: set[str]) -> tuple[str, ...]:
    """Order classes: by value where all are whole numbers, by name elsewhere."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        # 1 and 01 are two classes of one value
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _rows(path: Path, columns: Columns, delimiter: str) -> tuple[list[tuple[int, dict[str, str]]], list[Fault]]:
    if len(delimiter) != 1:
        raise UserError(f"data.delimiter is {delimiter!r}; it must be one character, such as ',' or '\\t'")
    text = "\n".join(read_text_lines(path, "data.file"))
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    _check_header(path, header, columns)
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[Fault] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                message = f"{sum(value is not None for value in row.values())} columns, and {len(header)} in the header"
                message = f"more than {len(header)} columns" if None in row else message
                faults.append(Fault(path, reader.line_num, "wrong number of columns", message))
            else:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a table of columns between {delimiter!r}: {error}") from error
    if not rows and not faults:
        raise UserError(f"data.file: {path} has a header and no row")
    return rows, faults


def _check_header(path: Path, header: Sequence[str], columns: Columns) -> None:
    problems = []
    for name in columns.all:
        if header.count(name) > 1:
            problems.append(f"the column {name!r} is there twice")
        elif name not in header:
            near = get_close_matches(name, header, n=1)
            problems.append(f"there is no column {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise UserError(
            f"data.file: {path}: {'; '.join(problems)}. Its columns are {', '.join(header)}; name them by "
            "data.path_column, data.label_column (or data.label_columns) and data.split_column (null draws the "
            "parts); data.delimiter is what stands between them"
        )


def _classes_of(row: Mapping[str, str], columns: Columns) -> list[str]:
    text = row[columns.label].strip()
    if columns.label_separator is None:
        return [text] if text else []
    return [one.strip() for one in text.split(columns.label_separator) if one.strip()]


def _entry(row: Mapping[str, str], columns: Columns, number: Mapping[str, int], path: Path, line: int) -> Entry | Fault:
    name = row[columns.path].strip()
    if not name:
        return Fault(path, line, "no path", f"the column {columns.path!r} is empty")
    part = None
    if columns.part is not None:
        part = PART_NAMES.get(row[columns.part].strip().lower())
        if part is None:
            message = f"{row[columns.part]!r} in {columns.part!r} is none of {', '.join(PART_NAMES)}"
            return Fault(path, line, "unknown part", message)
    if columns.labels is not None:
        values = [row[label].strip() for label in columns.labels]
        wrong = [value for value in values if value not in ("0", "1")]
        if wrong:
            return Fault(path, line, "labels not multi-hot", f"the label {wrong[0]!r} is neither 0 nor 1")
        return Entry(name, tuple(place for place, value in enumerate(values) if value == "1"), part, path, line)
    found = _classes_of(row, columns)
    if not found and columns.label_separator is None:
        return Fault(path, line, "no class", f"the column {columns.label!r} is empty")
    unknown = [one for one in found if one not in number]
    if unknown:
        return Fault(path, line, "unknown class", f"the class {unknown[0]!r} is not among data.class_names")
    return Entry(name, tuple(sorted({number[one] for one in found})), part, path, line)
