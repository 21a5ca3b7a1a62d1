"""Images to work on, without labels: every image of a folder, the rows of a table, the lines of a list, or one file."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from PIL import Image

from datamodules.files.class_folders import images_below
from datamodules.files.listing import SHOWN, Fault, read_text_lines, refuse
from datamodules.files.retrieval_list_files import label_width
from records.errors import UserError
from records.notices import RunWarning

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PATH_COLUMNS = ("path", "image_path", "image", "file", "filename", "file_name", "image_id", "img", "name", "id")
"""What a column of paths is called, the likeliest first; letters of either case."""


@dataclass(frozen=True)
class ImageList:
    """Image files, each once.

    Args:
        folder: absolute; what the names are relative to.
        names: paths below it, N of them, in listed order.
    """

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def read_image_list(
    source: str | Path, folder: str | Path | None = None, column: str | None = None, delimiter: str | None = None
) -> ImageList:
    """Read which images a folder, a table (.csv, .tsv), a list (any other text: a path a line) or a file stands for.

    An image that is listed twice counts once, and labels behind the path of a list, as the hashing literature writes
    them, are passed over; both are said. Whether the files can be read is not looked at.

    Args:
        source: folder or file.
        folder: what the paths of a table or list start from; None takes the folder that it lies in.
        column: the table's column of paths; None takes the likeliest of `PATH_COLUMNS`.
        delimiter: what stands between columns; None takes a comma, and a tab in .tsv.

    Raises:
        UserError: there is no such folder or file, no image in it, no such column, or a path lies outside the folder.
    """
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UserError(f"images={source}: there is no such folder or file")
    if path.suffix.lower() in Image.registered_extensions():
        return ImageList(path.parent, (path.name,))
    root = path.parent if folder is None else Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"image_dir={folder}: there is no such folder")
    separator = delimiter or DELIMITERS.get(path.suffix.lower())
    listed = _of_list(path) if separator is None else _of_table(path, column, separator)
    return ImageList(root, _below(root, path, listed))


def _of_folder(folder: Path) -> ImageList:
    images, others = images_below(folder)
    if not images:
        raise UserError(f"images={folder}: there is no image in this folder; it holds {len(others):,} other files")
    if others:
        kinds = ", ".join(f"{count:,} x {suffix or 'no suffix'}" for suffix, count in Counter(others).most_common())
        _warn(f"files below {folder} that are no images by their name were left out: {kinds}")
    names = tuple(path.relative_to(folder).as_posix() for path in images)
    broken = [name for name in names if "\n" in name or "\r" in name]
    if broken:
        raise UserError(f"images={folder}: {len(broken)} names hold a line break, the first {broken[0]!r}; rename them")
    return ImageList(folder, names)


def _of_list(path: Path) -> list[tuple[int, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(read_text_lines(path, "images"), start=1)]
    widths = [label_width(line) for _, line in lines if line]
    if min(widths) == 0:
        return [(number, line) for number, line in lines if line]
    return [(number, line.rsplit(maxsplit=label_width(line))[0]) for number, line in lines if line]


def _of_table(path: Path, column: str | None, delimiter: str) -> list[tuple[int, str]]:
    if len(delimiter) != 1:
        raise UserError(f"delimiter is {delimiter!r}; it must be one character, such as ';'")
    reader = csv.reader(io.StringIO("\n".join(read_text_lines(path, "images"))), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        place = header.index(_path_column(path, header, column))
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a table of columns between {delimiter!r}: {error}") from error
    if not rows:
        raise UserError(f"images={path}: the table has a header and no row")
    short = [
        Fault(path, line, "wrong number of columns", f"{len(row)} columns, and {len(header)} in the header")
        for line, row in rows
        if len(row) != len(header)
    ]
    refuse(short, "Quote what holds the delimiter, or say what stands between columns: delimiter=';'")
    return [(line, row[place].strip()) for line, row in rows]


def _path_column(path: Path, header: Sequence[str], column: str | None) -> str:
    known = {name.lower(): name for name in reversed(header)}
    if column is None:
        likely = next((known[name] for name in PATH_COLUMNS if name in known), None)
        if likely is None:
            raise UserError(
                f"images={path}: none of the columns {', '.join(header)} is called as paths are "
                f"({', '.join(PATH_COLUMNS)}); name it: path_column=..."
            )
        return likely
    if column not in header:
        near = get_close_matches(column, header, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"path_column={column}: {path} has the columns {', '.join(header)}{hint}")
    return column


def _below(root: Path, path: Path, listed: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """Return each listed path once, relative to the root.

    Raises:
        UserError: a path is empty, holds a line break or lies outside.
    """
    names: list[str] = []
    faults: list[Fault] = []
    for line, text in listed:
        name = os.path.relpath(root / text, root) if text else ""
        if not text:
            faults.append(Fault(path, line, "no path", "there is no path"))
        elif "\n" in text or "\r" in text:
            faults.append(Fault(path, line, "a line break in a path", repr(text)))
        elif Path(name).parts[:1] == (os.pardir,):
            faults.append(Fault(path, line, "a path outside the folder", f"{text} is not below {root}"))
        else:
            names.append(Path(name).as_posix())
    refuse(faults, "Paths are taken from the folder of the file, or from image_dir=FOLDER, and lie below it.")
    unique = tuple(dict.fromkeys(names))
    if len(unique) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        _warn(
            f"{len(names) - len(unique):,} of the {len(names):,} lines of {path} repeat an image, which counts once; "
            f"the first: {', '.join(twice[:SHOWN])}"
        )
    return unique


def _warn(text: str) -> None:
    warnings.warn(text, RunWarning, stacklevel=3)
