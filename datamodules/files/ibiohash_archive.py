"""The files of the iBioHash contest as they come out of its archive: where they are, and what is wrong with them.

Folder it reads::

    root/train.csv                  image_id,label; image_id with its suffix
    root/iBioHash_Train/            the labelled images, or a folder of them for each class
    root/Query/Query/               images without labels; the archive doubles the folder, one alone will do
    root/Gallery/Gallery/

What was found out about the files is kept in a folder of its own, `prepared`::

    scan.csv        every file that was looked at: path, size, time, digest, what is wrong with it
    left_out.csv    labelled images that are not trained on, with the reason
    broken.csv      images of query and gallery that cannot be read
    query.txt       names of the images of the two parts without labels, one a line
    gallery.txt
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.files.listing import name_below
from datamodules.images.image_files import DAMAGE, decode
from records.atomic_file import replace_atomically
from records.errors import UserError

Progress = Callable[[int, int], None]

UNLABELLED = ("query", "gallery")
SCAN_FILE = "scan.csv"
LEFT_OUT_FILE = "left_out.csv"
BROKEN_FILE = "broken.csv"
SCAN_HEADER = ("path", "size", "time", "digest", "problem")
SAVED_EVERY = 2000


class Look(NamedTuple):
    """What one file looked like: size in bytes, time of change in ns, digest of its bytes, what is wrong with it."""

    size: int
    time: int
    digest: str
    problem: str


@dataclass(frozen=True)
class ClassFolders:
    """How folders of classes were made.

    Attributes:
        folder: that holds them.
        made: images that were put into them.
        found: images that were there already.
    """

    folder: Path
    made: int
    found: int


def without_doubling(folder: Path) -> Path:
    """Return `folder/NAME` where an archive has put a folder NAME into one of the same name, else `folder`."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def image_names(folder: Path, key: str) -> list[str]:
    """List the images in a folder, by name, without hidden ones.

    Raises:
        UserError: there is no such folder, or no image in it; `key` is what to set.
    """
    if not folder.is_dir():
        raise UserError(f"{key}: there is no folder {folder}; unpack the archive there, or name another data.root")
    known = Image.registered_extensions()
    visible = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    names = sorted(name for name in visible if Path(name).suffix.lower() in known)
    if not names:
        raise UserError(f"{key}: there is no image in {folder}")
    return names


def look_at_all(paths: Sequence[Path], root: Path, record: Path, progress: Progress) -> dict[Path, Look]:
    """Decode every file on all cores, and note what was found; files noted before and unchanged are not read again.

    Args:
        paths: image files.
        root: folder that the noted paths are relative to.
        record: the notes, a CSV; written while the work goes on, so that an interruption costs little.
        progress: is told how many of how many files are done.
    """
    known = _read_looks(record, root)
    found = {path: known[path] for path in paths if path in known and _is_unchanged(path, known[path])}
    left = [path for path in paths if path not in found]
    progress(len(found), len(paths))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for some in _portions(left, SAVED_EVERY):
            for path, look in zip(some, pool.map(_look, some), strict=True):
                found[path] = look
                progress(len(found), len(paths))
            _append_looks(record, root, {path: found[path] for path in some})
    if len(known) != len(found) or left:
        _write_looks(record, root, found)
    return found


def _portions(items: Sequence[Path], size: int) -> Iterator[list[Path]]:
    rest = iter(items)
    while portion := list(islice(rest, size)):
        yield portion


def _look(path: Path) -> Look:
    try:
        status = path.stat()
        content = path.read_bytes()
    except FileNotFoundError:
        return Look(0, 0, "", "there is no such file")
    except OSError as error:
        return Look(0, 0, "", error.strerror or str(error))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        decode(path)
    except DAMAGE as error:
        text = "it is no image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        return Look(status.st_size, status.st_mtime_ns, digest, text or type(error).__name__)
    return Look(status.st_size, status.st_mtime_ns, digest, "")


def _is_unchanged(path: Path, look: Look) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (look.size, look.time)


def _read_looks(record: Path, root: Path) -> dict[Path, Look]:
    try:
        text = record.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    looks = {}
    # a kill while a line was written leaves a part of it
    whole = text[: text.rfind("\n") + 1]
    for row in list(csv.reader(io.StringIO(whole, newline="")))[1:]:
        if len(row) == len(SCAN_HEADER) and row[1].isdecimal() and row[2].isdecimal():
            looks[root / row[0]] = Look(int(row[1]), int(row[2]), row[3], row[4])
    return looks


def _rows_of(looks: Mapping[Path, Look], root: Path) -> list[tuple[str, ...]]:
    return [
        (name_below(path, root), str(one.size), str(one.time), one.digest, one.problem) for path, one in looks.items()
    ]


def _append_looks(record: Path, root: Path, looks: Mapping[Path, Look]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    is_new = not record.exists()
    with record.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(csv_text([SCAN_HEADER] if is_new else []) + csv_text(_rows_of(looks, root)))


def _write_looks(record: Path, root: Path, looks: Mapping[Path, Look]) -> None:
    write_text_of_paths(record, csv_text([SCAN_HEADER, *_rows_of(looks, root)]))


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as CSV with Unix line ends."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_text_of_paths(file: Path, text: str) -> None:
    """Replace a file by text that may hold names of files that are not UTF-8."""
    with replace_atomically(file) as handle:
        handle.write(text.encode("utf-8", "surrogateescape"))


def left_out(names: Sequence[str], classes: Sequence[str], looks: Sequence[Look]) -> dict[str, str]:
    """Say which labelled images not to train on, with the reason.

    Those that cannot be read; of several with the same bytes and the same class all but the first; of several with the
    same bytes and different classes all, for at most one of their labels is right.

    Args:
        names: N of them.
        classes: their classes.
        looks: what each file looked like.
    """
    reasons = {name: look.problem for name, look in zip(names, looks, strict=True) if look.problem}
    same: dict[str, list[int]] = defaultdict(list)
    for place, look in enumerate(looks):
        if not look.problem:
            same[look.digest].append(place)
    for places in same.values():
        first, *others = places
        if len({classes[place] for place in places}) > 1:
            shown = ", ".join(f"{names[place]} ({classes[place]})" for place in places)
            reasons.update({names[place]: f"the same image with different classes: {shown}" for place in places})
        else:
            reasons.update({names[place]: f"the same image as {names[first]}" for place in others})
    return {name: reasons[name] for name in names if name in reasons}


def read_left_out(prepared: Path) -> dict[str, str]:
    """Return the images that preparing left out, with the reason; none where nothing was prepared."""
    try:
        text = (prepared / LEFT_OUT_FILE).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    return {name: reason for name, reason, *_ in rows}


def make_class_folders(
    folder: Path, target: Path, names: Sequence[str], classes: Sequence[str], how: str
) -> ClassFolders:
    """Put every image into a folder named after its class; what is there already stays.

    Args:
        folder: what the names are relative to.
        target: folder of the class folders.
        names: of the images.
        classes: their classes.
        how: `link` makes relative symbolic links, `move` moves the files.

    Raises:
        UserError: a class's name cannot be a folder's.
    """
    made = found = 0
    for name, label in zip(names, classes, strict=True):
        if label in ("", ".", "..") or "/" in label or "\0" in label:
            raise UserError(f"the class {label!r} cannot be the name of a folder")
        source, place = folder / name, target / label / Path(name).name
        if place.is_symlink() or place.exists():
            found += 1
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if how == "move":
            source.rename(place)
        else:
            place.symlink_to(os.path.relpath(source, place.parent))
        made += 1
    return ClassFolders(target, made, found)
