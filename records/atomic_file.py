"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replace_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    The content goes to a temporary file in the same folder (another folder may be another filesystem, where a rename
    is a copy), is flushed to the disk and then renamed over `path`; the folder's entry is flushed last. On an error
    inside the block the temporary file is removed and `path` stays as it was. The parent folder is made when it is
    missing.

    Yields:
        The temporary file, opened for binary writing.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        # "xb" and not tempfile: its files are readable by the owner alone, and the rename would keep that.
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by UTF-8 text, atomically."""
    with replace_atomically(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Replace a file by strict JSON (two blanks of indent, keys in the order given), atomically.

    Raises:
        ValueError: the content holds NaN or an infinity, which JSON cannot say.
        TypeError: the content holds something other than plain containers, text and numbers.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_leftovers(path: str | os.PathLike[str]) -> int:
    """Delete the temporary files that killed writers of `path` left beside it; returns how many.

    Only for files with a single writer: another process that writes `path` right now would lose its work.
    """
    target = Path(path)
    prefix, suffix = f".{target.name}.", ".tmp"
    if not target.parent.is_dir():
        return 0
    leftovers = [
        entry for entry in target.parent.iterdir() if entry.name.startswith(prefix) and entry.name.endswith(suffix)
    ]
    for entry in leftovers:
        entry.unlink(missing_ok=True)
    return len(leftovers)


def _flush_folder(folder: Path) -> None:
    # Windows cannot open a folder; its rename is written through by the filesystem.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
