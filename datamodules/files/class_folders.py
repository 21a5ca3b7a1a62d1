"""Folders named after classes, below folders named after parts: what image folders of all kinds share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from datamodules.files.listing import PART_NAMES
from records.errors import UserError


def part_folders(root: Path) -> dict[Path, str | None]:
    """Return the folders that hold class folders, with the part each is for: those called train, test, ..., or `root`.

    Raises:
        UserError: folders of parts stand beside others, so that it is not clear which are classes.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    parts: dict[Path, str | None] = {}
    others = []
    for folder in folders_in(root):
        if folder.name.lower() in PART_NAMES:
            parts[folder] = PART_NAMES[folder.name.lower()]
        else:
            others.append(folder.name)
    if not parts or (others and "train" not in parts.values()):
        return {root: None}
    if others:
        raise UserError(
            f"data.root: {root} holds folders of parts ({', '.join(folder.name for folder in parts)}) beside others "
            f"({', '.join(others[:10])}); move the others away"
        )
    return parts


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder in order of their names, without hidden ones."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def images_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder in order of their names, without hidden ones, and the other files' suffixes.

    Folders that symbolic links lead to are read as well; each folder once, by the name without a link where it has one.
    """
    known = Image.registered_extensions()
    images, others = [], []
    for path in sorted(_files_below(folder)):
        if path.suffix.lower() in known:
            images.append(path)
        else:
            others.append(path.suffix.lower())
    return images, others


def _files_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    tops = [folder]
    # grows by the links that are found; they come after the folders without a link, whose names they do not change
    for top in tops:
        for place, folders, files in os.walk(top):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            tops += [Path(place, name) for name in folders if Path(place, name).is_symlink()]
            yield from (Path(place, name) for name in files if not name.startswith("."))
