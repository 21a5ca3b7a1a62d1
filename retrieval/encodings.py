"""What a network made of a list of images, on disk: codes, hash values and features, block by block, then whole.

A folder of encodings::

    encodings.json      what was encoded and by what: the identity, the number of images, bits, what is complete
    blocks/0000007.npz  one block of images; a block that is there need not be encoded again
    codes.npy           (N, ceil(K / 64)) uint64, packed as in ``retrieval.codes``; where there are hash values
    values.npy          (N, K) float32, the hash values before the sign
    features.npy        (N, D) float32
    names.txt           the N images that could be read, one name a line, in the order of the list
    unreadable.csv      the others, with the reason

Blocks go over into the arrays once all are there. Their places depend on the list alone, not on who encodes them, so
that an interrupted encoding goes on with any number of processes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.codes import pack, to_bits

BLOCK_SIZE = 2048
FORMAT = "encodings"
VERSION = 1
MANIFEST = "encodings.json"
ARRAYS = ("values", "features")


class ForeignEncodingsError(ValueError):
    """A folder holds encodings of other images, or by another model, than those that are asked for."""


@dataclass(frozen=True)
class EncodingPlan:
    """Which images are encoded, and by what.

    Attributes:
        names: of the images, each once, without line breaks.
        identity: what the encodings depend on beside the images, by name: checksum of the weights, views, ...
        block_size: images in a block.
    """

    names: tuple[str, ...]
    identity: Mapping[str, str]
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"{len(self.names) - len(set(self.names))} names of images are there twice")
        broken = [name for name in self.names if "\n" in name or "\r" in name]
        if broken:
            raise ValueError(f"a line break is in the name of an image: {broken[0]!r}")

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-len(self.names) // self.block_size)

    def positions(self, block: int) -> range:
        """Return the places in ``names`` of the images of a block."""
        start = block * self.block_size
        return range(start, min(start + self.block_size, len(self.names)))

    @property
    def description(self) -> dict[str, object]:
        """What has to be the same for encodings to be these; plain, for JSON."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        return {
            "format": FORMAT,
            "version": VERSION,
            "images": len(self.names),
            "names": digest.hexdigest(),
            "block_size": self.block_size,
            "identity": dict(self.identity),
        }


@dataclass(frozen=True)
class Encodings:
    """Images that could be read, with what the network made of them; arrays are mapped from disk.

    Attributes:
        names: N of them.
        codes: (N, ceil(K / 64)) uint64; None where the network has no hash values.
        bits: K, 0 without codes.
        values: (N, K) float32, or None.
        features: (N, D) float32, or None where they were not kept.
        unreadable: name to reason of the images that are missing here.
        identity: as in the plan.
    """

    names: tuple[str, ...]
    codes: np.ndarray | None
    bits: int
    values: np.ndarray | None
    features: np.ndarray | None
    unreadable: Mapping[str, str]
    identity: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Block:
    """One block of encodings: the readable images' places in the list, and rows for each of them.

    Attributes:
        positions: (n,) int64, rising.
        values: (n, K) float32, or None.
        features: (n, D) float32, or None.
        unreadable: place to reason.
    """

    positions: np.ndarray
    values: np.ndarray | None
    features: np.ndarray | None
    unreadable: Mapping[int, str]


def begin(folder: Path, plan: EncodingPlan) -> None:
    """Make the folder ready: a new one is described, one of the same plan is gone on with.

    Raises:
        ForeignEncodingsError: it holds others; the text says what differs.
    """
    stored = read_description(folder)
    wanted = plan.description
    if stored is not None:
        _refuse_other(folder, stored, wanted)
        return
    (folder / "blocks").mkdir(parents=True, exist_ok=True)
    _replace(folder / MANIFEST, json.dumps({**wanted, "complete": False}, indent=2).encode() + b"\n")


def read_description(folder: Path) -> dict[str, object] | None:
    """Return what a folder of encodings says of itself; None where there is none.

    Raises:
        ForeignEncodingsError: encodings.json is something else.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ForeignEncodingsError(f"{folder / MANIFEST} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ForeignEncodingsError(f"{folder / MANIFEST} does not describe encodings of version {VERSION}")
    return content


def _refuse_other(folder: Path, stored: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    different = [key for key in ("images", "names", "block_size") if stored.get(key) != wanted[key]]
    old, new = stored.get("identity"), wanted["identity"]
    if isinstance(old, dict) and isinstance(new, dict):
        different += [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if different:
        raise ForeignEncodingsError(f"{folder} holds encodings of another kind: {', '.join(different)} differ")


def is_complete(folder: Path) -> bool:
    """Tell whether all images of a folder of encodings are encoded, and its arrays are there."""
    stored = read_description(folder)
    return stored is not None and stored.get("complete") is True


def missing_blocks(folder: Path, plan: EncodingPlan) -> list[int]:
    """Return the numbers of the blocks that are still to be encoded, rising; none once the arrays are there."""
    if is_complete(folder):
        return []
    return [block for block in range(plan.blocks) if not _is_whole(_block_file(folder, block))]


def _is_whole(file: Path) -> bool:
    """Tell whether a block is there and can be opened; a damaged one is encoded again."""
    try:
        with zipfile.ZipFile(file):
            return True
    except (OSError, zipfile.BadZipFile):
        return False


def write_block(folder: Path, number: int, block: Block) -> None:
    """Write one block, whole or not at all."""
    arrays = {name: getattr(block, name) for name in ARRAYS if getattr(block, name) is not None}
    reasons = json.dumps({str(place): reason for place, reason in block.unreadable.items()})
    content = io.BytesIO()
    np.savez(content, positions=block.positions, unreadable=np.array(reasons), **arrays)
    _replace(_block_file(folder, number), content.getvalue())


def finish(folder: Path, plan: EncodingPlan) -> None:
    """Join the blocks into arrays, one at a time, and remove them; nothing to do where that has been done.

    Raises:
        ValueError: blocks are missing, or do not go together.
    """
    if is_complete(folder):
        return
    missing = missing_blocks(folder, plan)
    if missing:
        raise ValueError(f"{len(missing)} of {plan.blocks} blocks of {folder} are not encoded yet")
    readable: list[int] = []
    unreadable: dict[int, str] = {}
    for number in range(plan.blocks):
        block = _read_block(folder, number)
        readable += block.positions.tolist()
        unreadable.update(block.unreadable)
    for name in ARRAYS:
        _join(folder, plan, name, len(readable))
    _replace(folder / "names.txt", _lines(plan.names[place] for place in readable))
    _replace(folder / "unreadable.csv", _reasons_csv([(plan.names[at], unreadable[at]) for at in sorted(unreadable)]))
    _replace(folder / MANIFEST, json.dumps({**plan.description, "complete": True}, indent=2).encode() + b"\n")
    shutil.rmtree(folder / "blocks")


def read_encodings(folder: Path) -> Encodings:
    """Open complete encodings; the arrays are mapped, not read.

    Raises:
        ValueError: there are none, or they are not complete.
    """
    stored = read_description(folder)
    if stored is None or stored.get("complete") is not True:
        raise ValueError(f"{folder} holds no complete encodings")
    names = tuple((folder / "names.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1])
    text = (folder / "unreadable.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    values = _mapped(folder / "values.npy")
    identity = stored["identity"]
    return Encodings(
        names=names,
        codes=_mapped(folder / "codes.npy"),
        bits=0 if values is None else values.shape[1],
        values=values,
        features=_mapped(folder / "features.npy"),
        unreadable={name: reason for name, reason, *_ in rows},
        identity=dict(identity) if isinstance(identity, dict) else {},
    )


def _mapped(file: Path) -> np.ndarray | None:
    if not file.is_file():
        return None
    array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


def _block_file(folder: Path, number: int) -> Path:
    return folder / "blocks" / f"{number:07d}.npz"


def _read_block(folder: Path, number: int) -> Block:
    with np.load(_block_file(folder, number), allow_pickle=False) as stored:
        reasons = json.loads(str(stored["unreadable"]))
        return Block(
            positions=stored["positions"],
            values=stored.get("values"),
            features=stored.get("features"),
            unreadable={int(place): reason for place, reason in reasons.items()},
        )


def _join(folder: Path, plan: EncodingPlan, name: str, rows: int) -> None:
    """Write the array `name` of all blocks, and the codes beside hash values; nothing where the blocks hold none."""
    joined: dict[str, np.ndarray] = {}
    start = 0
    for number in range(plan.blocks):
        part = getattr(_read_block(folder, number), name)
        if part is None or not len(part):
            continue
        parts = {name: part, "codes": pack(to_bits(part))} if name == "values" else {name: part}
        for key, array in parts.items():
            if key not in joined:
                file = folder / f"{key}.npy"
                joined[key] = np.lib.format.open_memmap(file, "w+", array.dtype, (rows, array.shape[1]))
            joined[key][start : start + len(array)] = array
        start += len(part)
    if joined and start != rows:
        raise ValueError(f"{folder}: blocks hold {start} rows of {name} for {rows} images")
    for array in joined.values():
        array.flush()  # type: ignore[attr-defined]


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")


def _reasons_csv(rows: Sequence[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("image", "reason"), *rows])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _replace(file: Path, content: bytes) -> None:
    """Write a file so that it is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
