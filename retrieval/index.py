"""An index of binary codes on disk: built once, searched, added to, removed from, and refused where it does not fit.

A folder of an index::

    index.json           what it holds: kind, bits, number of images, identity of the model, checksums of its files
    000001/codes.npy     (N, ceil(K / 64)) uint64, packed as in ``retrieval.codes``
    000001/names.txt     the N images, one name a line
    000001/index.faiss   faiss' own file

A change writes a new numbered folder and then replaces index.json, which names it: a reader, or a crash, sees the old
index or the new one.

The kinds are faiss' binary indexes. `flat` compares every code and is exact, with equal distances by position; a
million codes of 64 bits are 8 MB and take about half a millisecond a query, so the others are for larger sets. `ivf`
compares the codes of the `probes` nearest of `lists` cells; `hnsw` walks a graph of `links` neighbours a code with
`breadth` candidates. Both may miss some of the nearest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np

from retrieval.codes import check_codes, words_to_bytes
from retrieval.search import faiss_threads, search_flat

Kind = Literal["flat", "ivf", "hnsw"]
FORMAT = "code index"
VERSION = 1
MANIFEST = "index.json"
FILES = ("codes.npy", "names.txt", "index.faiss")
CODES_PER_CELL = 39  # with fewer, faiss' k-means warns that cells are badly placed
CONSTRUCTION_BREADTH = 40  # as faiss has it: 200 takes five times as long and finds no more
HASHED_AT_ONCE = 1 << 20
NOTHING = -1
"""Position that stands where an approximate search found fewer than k codes."""


class UnfitIndexError(ValueError):
    """A folder holds no index, a damaged one, or one of another model; the text says which."""


@dataclass(frozen=True)
class IndexSettings:
    """How codes are searched.

    Args:
        kind: `flat`, `ivf` or `hnsw`.
        lists: cells of `ivf`; None takes the square root of the number of codes, as far as there are 39 codes a cell.
        probes: cells that a search of `ivf` looks into.
        links: neighbours that a code of `hnsw` keeps on each level, twice as many on the lowest.
        breadth: candidates that a search of `hnsw` keeps, at least k.

    Raises:
        ValueError: a value is none of these.
    """

    kind: Kind = "flat"
    lists: int | None = None
    probes: int = 32
    links: int = 16
    breadth: int = 128

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r}; the choices are {', '.join(get_args(Kind))}")
        for name in ("lists", "probes", "links", "breadth"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; it must be at least 1")
        if self.links < 2:
            raise ValueError(f"links={self.links}; a graph needs at least 2")

    def cells(self, size: int) -> int:
        """Return the number of cells of `ivf` for so many codes."""
        wanted = round(math.sqrt(size)) if self.lists is None else self.lists
        return max(1, min(wanted, size if self.lists is not None else size // CODES_PER_CELL))


@dataclass(frozen=True)
class CodeIndex:
    """Codes with names, ready to be searched; a change makes a new one.

    Args:
        names: of N images, each once, without line breaks.
        codes: (N, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        bits: K.
        identity: what the codes are made by: checksum of the weights, ...
        settings: how it is searched.

    Raises:
        ValueError: there is no code, names and codes differ in number, a name is there twice or holds a line break, or
            the codes are not packed codes of K bits.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    bits: int
    identity: Mapping[str, str]
    settings: IndexSettings = IndexSettings()

    def __post_init__(self) -> None:
        check_codes(self.codes, self.bits)
        if not self.names:
            raise ValueError("an index holds one code at least")
        if len(self.names) != len(self.codes):
            raise ValueError(f"{len(self.names)} names do not go with {len(self.codes)} codes")
        if len(self.positions) < len(self.names):
            raise ValueError(f"{len(self.names) - len(self.positions)} names are there twice")
        broken = [name for name in self.names if "\n" in name or "\r" in name]
        if broken:
            raise ValueError(f"a line break is in the name of an image: {broken[0]!r}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position of each name."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def searcher(self) -> Any:
        """The faiss index of the codes; built at the first use where it was not read from a file."""
        return _built(self.codes, self.settings)

    def search(self, query_codes: np.ndarray, k: int, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find k nearest codes of each query; equal distances by position.

        Args:
            query_codes: (Q, ceil(K / 64)) uint64.
            k: from 1 to N.
            threads: of the search; None for as many as there are queries, and at most OpenMP's own number.

        Returns:
            distances (Q, k) int64, never falling along a row, and positions (Q, k) int64. Where an approximate search
            found fewer, both are -1 at the end of the row.

        Raises:
            ValueError: the codes are not packed codes of K bits, k is not in 1 .. N, or threads is below 1.
        """
        check_codes(query_codes, self.bits, "query_codes")
        if not 1 <= k <= len(self):
            raise ValueError(f"k={k}: the index holds {len(self)} codes, choose k from 1 to that")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: a search takes at least 1")
        if len(query_codes) == 0:
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.int64)
        if self.settings.kind == "flat":
            return search_flat(self.searcher, query_codes, k, threads)
        if self.settings.kind == "hnsw":
            self.searcher.hnsw.efSearch = max(self.settings.breadth, k)
        else:
            self.searcher.nprobe = min(self.settings.probes, self.searcher.nlist)
        with faiss_threads(min(threads or faiss.omp_get_max_threads(), len(query_codes))):
            distances, positions = self.searcher.search(words_to_bytes(query_codes), k)
        return _in_order(distances.astype(np.int64), positions)

    def with_settings(self, settings: IndexSettings) -> CodeIndex:
        """Return the index searched in another way; built anew where more than the search itself differs."""
        changed = replace(self, settings=settings)
        searched_only = replace(self.settings, probes=settings.probes, breadth=settings.breadth)
        if settings == searched_only:
            changed.__dict__["searcher"] = self.searcher
        return changed

    def with_added(self, names: Sequence[str], codes: np.ndarray) -> CodeIndex:
        """Return the index with further images behind its own; cells and graph are kept and added to.

        Raises:
            ValueError: a name is in the index already, or is there twice; or the codes do not fit.
        """
        check_codes(codes, self.bits)
        known = [name for name in names if name in self.positions]
        if known:
            raise ValueError(f"{len(known)} images are in the index already, the first {known[0]!r}")
        added = replace(self, names=(*self.names, *names), codes=np.concatenate([self.codes, codes]))
        searcher = faiss.clone_binary_index(self.searcher)  # type: ignore[attr-defined]
        searcher.add(words_to_bytes(codes))
        added.__dict__["searcher"] = searcher
        return added

    def without(self, names: Sequence[str]) -> CodeIndex:
        """Return the index without these images, built anew from the codes that are left.

        Raises:
            ValueError: an image is not in the index, or none would be left.
        """
        unknown = [name for name in names if name not in self.positions]
        if unknown:
            raise ValueError(f"{len(unknown)} images are not in the index, the first {unknown[0]!r}")
        kept = np.ones(len(self), dtype=bool)
        kept[[self.positions[name] for name in names]] = False
        left = tuple(name for name, stays in zip(self.names, kept, strict=True) if stays)
        return replace(self, names=left, codes=self.codes[kept])

    def save(self, folder: Path) -> None:
        """Write the index so that the folder holds the old one or this one, whenever the process dies."""
        stored = _read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        place = f"{int(str(stored.get('place', '0'))) + 1:06d}"
        _write_files(folder / place, self)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "place": place,
            "images": len(self),
            "bits": self.bits,
            "settings": asdict(self.settings),
            "identity": dict(self.identity),
            "checksums": {name: _checksum(folder / place / name) for name in FILES},
        }
        _replace(folder / MANIFEST, json.dumps(content, indent=2).encode() + b"\n")
        for other in folder.iterdir():
            if other.is_dir() and other.name != place:
                shutil.rmtree(other, ignore_errors=True)


def open_index(folder: Path) -> CodeIndex:
    """Open a saved index; its files are held against their checksums.

    Raises:
        UnfitIndexError: there is none, or it is damaged or of another version.
    """
    content = _read_manifest(folder)
    place = folder / str(content["place"])
    for name, expected in content["checksums"].items():
        try:
            found = _checksum(place / name)
        except OSError as error:
            raise UnfitIndexError(f"{place / name} cannot be read: {error.strerror}") from error
        if found != expected:
            raise UnfitIndexError(f"{place / name} is damaged: its checksum is not that of index.json")
    names = (place / "names.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
    codes = np.load(place / "codes.npy", allow_pickle=False)
    settings = IndexSettings(**content["settings"])
    index = CodeIndex(tuple(names), codes, content["bits"], content["identity"], settings)
    index.__dict__["searcher"] = faiss.read_index_binary(str(place / "index.faiss"))
    return index


def has_index(folder: Path) -> bool:
    """Tell whether a folder holds an index, of whatever kind."""
    return (folder / MANIFEST).is_file()


def differences(stored: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the names of what differs between two identities."""
    return [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]


def _built(codes: np.ndarray, settings: IndexSettings) -> Any:
    width = 64 * codes.shape[1]
    content = words_to_bytes(codes)
    index: Any
    if settings.kind == "flat":
        index = faiss.IndexBinaryFlat(width)
    elif settings.kind == "hnsw":
        index = faiss.IndexBinaryHNSW(width, settings.links)
        index.hnsw.efConstruction = CONSTRUCTION_BREADTH
    else:
        cells = settings.cells(len(codes))
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(width), width, cells)
        index.train(content)
    # one thread: a graph that several build together differs from run to run
    with faiss_threads(1 if settings.kind == "hnsw" else faiss.omp_get_max_threads()):
        index.add(content)
    return index


def _in_order(distances: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order each row by distance and then position; what was not found goes to the end."""
    missing = positions < 0
    far = np.where(missing, np.iinfo(np.int64).max, distances)
    order = np.lexsort((positions, far), axis=-1)
    ordered = np.take_along_axis(np.where(missing, NOTHING, distances), order, axis=1)
    return ordered, np.take_along_axis(np.where(missing, NOTHING, positions), order, axis=1)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnfitIndexError(f"{folder} holds no index") from error
    except ValueError as error:
        raise UnfitIndexError(f"{folder / MANIFEST} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UnfitIndexError(f"{folder / MANIFEST} does not describe an index of version {VERSION}")
    return content


def _write_files(folder: Path, index: CodeIndex) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "codes.npy", np.asarray(index.codes), allow_pickle=False)
    (folder / "names.txt").write_bytes("".join(f"{name}\n" for name in index.names).encode("utf-8", "surrogateescape"))
    faiss.write_index_binary(index.searcher, str(folder / "index.faiss"))
    for name in FILES:
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(HASHED_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def _replace(file: Path, content: bytes) -> None:
    """Write a file so that it is whole or not there."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
