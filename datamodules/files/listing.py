"""A data set as a listing of files: names, labels and parts, whatever they are read from, and the faults in it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 10
PART_NAMES = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "query": "query", "queries": "query",
    "database": "database", "gallery": "database",
}  # fmt: skip
"""What parts are called in tables and folders, to the name they have here."""


class Fault(NamedTuple):
    """Something wrong with one line of a file (0 for a folder): where, of what kind, and what it says."""

    file: Path
    line: int
    kind: str
    message: str


class Entry(NamedTuple):
    """One line: an image, its classes by number (rising), the part it is listed in; file and line (0 for a folder)."""

    name: str
    classes: tuple[int, ...]
    part: str | None
    file: Path
    line: int


@dataclass(frozen=True)
class Listing:
    """Images by name, each once.

    Args:
        names: paths, N of them.
        labels: int64 (N,), or float (N, C) multi-hot.
        class_names: name of every class, C of them.
        parts: part to int64 positions in listed order; empty where the parts are still to be drawn.
        origins: file and line that each name was first read from.
    """

    names: tuple[str, ...]
    labels: torch.Tensor
    class_names: tuple[str, ...]
    parts: Mapping[str, torch.Tensor]
    origins: tuple[tuple[Path, int], ...]

    def without(self, left_out: Sequence[int]) -> Listing:
        """Return the listing without the images at these positions."""
        kept = np.ones(len(self.names), dtype=bool)
        kept[list(left_out)] = False
        new_position = torch.from_numpy(np.cumsum(kept) - 1)
        keep = torch.from_numpy(kept)
        return replace(
            self,
            names=tuple(name for name, stays in zip(self.names, kept, strict=True) if stays),
            labels=self.labels[keep],
            parts={part: new_position[positions[keep[positions]]] for part, positions in self.parts.items()},
            origins=tuple(origin for origin, stays in zip(self.origins, kept, strict=True) if stays),
        )


def refuse(faults: Sequence[Fault], mend: str) -> None:
    """Stop where there are faults: all counted by kind, the first ones shown with file and line.

    Raises:
        UserError: there is a fault.
    """
    if not faults:
        return
    kinds = Counter(fault.kind for fault in faults)
    counts = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common())
    lines = [f"  {_place(fault)}: {fault.message}" for fault in faults[:SHOWN]]
    more = [f"  and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    raise UserError("\n".join([f"the data have {len(faults):,} fault(s) ({counts}):", *lines, *more, mend]))


def _place(fault: Fault) -> str:
    return f"{fault.file}:{fault.line}" if fault.line else str(fault.file)


def name_below(path: Path, root: Path) -> str:
    """Return a path relative to `root` where it lies below it, else whole; `root / name` is the path again."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def read_text_lines(path: Path, key: str) -> list[str]:
    """Read the lines of a text file: UTF-8 with or without byte order mark, line ends of any system.

    Raises:
        UserError: it is missing, is not UTF-8, or holds nothing; `key` is what to set.
    """
    try:
        # not splitlines: it also splits at characters that a path may hold
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if not any(line.strip() for line in lines):
        raise UserError(f"{key}: {path} is empty")
    return lines


def read_class_names(setting: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the class names that `data.class_names` gives: a list, a file with one name a line, or nothing.

    Raises:
        UserError: the file cannot be read, or a name is there twice.
    """
    if setting is None:
        return None
    if isinstance(setting, (str, Path)):
        lines = read_text_lines(Path(setting), "data.class_names")
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(str(name) for name in setting)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"data.class_names holds {', '.join(map(repr, twice[:SHOWN]))} more than once")
    return names


def gather(entries: Iterable[Entry], class_names: Sequence[str], multi_label: bool | None) -> Listing:
    """Make a listing of entries: each name once, in the order of first appearance.

    Args:
        entries: what was read; a name may stand in several parts.
        class_names: C of them.
        multi_label: whether labels are multi-hot; None where that is so if an image has not exactly one class.

    Raises:
        UserError: a name has different labels in different places, or not exactly one where `multi_label` is false.
    """
    first: dict[str, tuple[int, Entry]] = {}
    parts: dict[str, list[int]] = {}
    faults: list[Fault] = []
    for entry in entries:
        position, known = first.setdefault(entry.name, (len(first), entry))
        if known.classes != entry.classes:
            message = f"{entry.name} has other labels in {known.file.name}:{known.line}"
            faults.append(Fault(entry.file, entry.line, "contradicting labels", message))
        if entry.part is not None:
            parts.setdefault(entry.part, []).append(position)
    images = [entry for _, entry in first.values()]
    several = [entry for entry in images if len(entry.classes) != 1]
    if multi_label is False:
        faults += [
            Fault(entry.file, entry.line, "not one class", f"{entry.name} has {len(entry.classes)} classes, not one")
            for entry in several
        ]
    refuse(faults, "Each image has one set of labels, and exactly one class where labels are single.")
    hot = bool(several) if multi_label is None else multi_label
    return Listing(
        names=tuple(first),
        labels=_labels([entry.classes for entry in images], len(class_names), hot),
        class_names=tuple(class_names),
        parts={part: _each_once(part, positions) for part, positions in parts.items()},
        origins=tuple((entry.file, entry.line) for entry in images),
    )


def _labels(classes: Sequence[tuple[int, ...]], num_classes: int, multi_label: bool) -> torch.Tensor:
    if not multi_label:
        return torch.tensor([only for (only,) in classes], dtype=torch.int64)
    rows = np.repeat(np.arange(len(classes)), [len(some) for some in classes])
    columns = np.fromiter((one for some in classes for one in some), dtype=np.int64, count=len(rows))
    labels = torch.zeros((len(classes), num_classes))
    labels[torch.from_numpy(rows), torch.from_numpy(columns)] = 1.0
    return labels


def _each_once(part: str, positions: Sequence[int]) -> torch.Tensor:
    unique = list(dict.fromkeys(positions))
    if len(unique) < len(positions):
        warnings.warn(
            f"{len(positions) - len(unique):,} of the {len(positions):,} lines of the part {part!r} repeat an image; "
            "each image counts once",
            RunWarning,
            stacklevel=2,
        )
    return torch.tensor(unique, dtype=torch.int64)


def positions_also_in(part: torch.Tensor, other: torch.Tensor, groups: NDArray[np.int64]) -> torch.Tensor:
    """Say which images of `part` (n,) are of a group that is also in `other` (m,): bool (n,).

    Args:
        part: int64 positions.
        other: int64 positions.
        groups: int64 (N,), the same number for images that are the same.
    """
    return torch.from_numpy(np.isin(groups[part.numpy()], groups[other.numpy()]))
