"""The files of an iBioHash submission: written, and read again byte by byte as strictly as the contest's script could.

* ``submit_query.csv``, ``submit_gallery.csv``: header ``image_id,hashcode``; then for each image its name with the
  suffix and its code, one character 0 or 1 for each bit, between single quotes, which keep a spreadsheet from making a
  number of it. The contest's script cuts the last character off every line, so a file whose last line has no line end
  loses the last bit of its last code.
* ``submit.csv``: header ``Id,Predicted``; then for each query its name with the suffix and the names of its 20 nearest
  gallery images without it, nearest first, separated by blanks. Equal distances are ordered by the place in
  ``submit_gallery.csv``; the contest's own order of these is arbitrary.

Source: the organisers' script generate_submit_csv.py, as copied in github.com/codeman34134/iBioHash2023.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from retrieval.codes import pack, unpack
from retrieval.search import nearest_codes

CODE_HEADER = "image_id,hashcode"
RANKING_HEADER = "Id,Predicted"
BITS = 48
LISTED = 20
SHOWN = 5
FORBIDDEN = re.compile(r"[\s,'\"]")


def code_file(names: Sequence[str], codes: np.ndarray, bits: int = BITS) -> bytes:
    """Return submit_query.csv or submit_gallery.csv.

    Args:
        names: of N images, with their suffixes.
        codes: (N, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        bits: K.

    Raises:
        ValueError: a name is there twice, or holds a blank, a comma or a quotation mark, which the format cannot say.
    """
    _check_names(names)
    if len(names) != len(codes):
        raise ValueError(f"{len(names)} names do not go with {len(codes)} codes")
    digits = (unpack(codes, bits).astype(np.uint8) + ord("0")).tobytes().decode("ascii")
    rows = (f"{name},'{digits[row * bits : (row + 1) * bits]}'" for row, name in enumerate(names))
    return _text([CODE_HEADER, *rows])


def with_silent_queries(
    names: Sequence[str], codes: np.ndarray, unreadable: Iterable[str], bits: int = BITS
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names and packed codes sorted by name, with the code of zeros for each query that cannot be read.

    A query's line must not be missing.
    """
    silent = tuple(unreadable)
    every = (*names, *silent)
    rows = np.concatenate([codes, pack(np.zeros((len(silent), bits), dtype=bool))])
    order = np.argsort(np.array(every), kind="stable")
    return tuple(every[place] for place in order), rows[order]


def ranking_file(query_names: Sequence[str], gallery_names: Sequence[str], positions: np.ndarray) -> bytes:
    """Return submit.csv.

    Args:
        query_names: of Q images, with their suffixes.
        gallery_names: of N images, with their suffixes.
        positions: (Q, L) int64, places of each query's nearest gallery images, nearest first.

    Raises:
        ValueError: names are there twice without their suffixes, or hold what the format cannot say.
    """
    _check_names(query_names)
    stems = gallery_stems(gallery_names)
    if len(query_names) != len(positions):
        raise ValueError(f"{len(query_names)} names of queries do not go with {len(positions)} rankings")
    rows = (
        f"{name},{' '.join(stems[place] for place in places)}"
        for name, places in zip(query_names, positions.tolist(), strict=True)
    )
    return _text([RANKING_HEADER, *rows])


def ranking(query_codes: np.ndarray, gallery_codes: np.ndarray, bits: int = BITS, listed: int = LISTED) -> np.ndarray:
    """Return the places (Q, L) of each query's nearest gallery codes, equal distances by their place.

    Raises:
        ValueError: the gallery holds fewer images than are listed.
    """
    if len(gallery_codes) < listed:
        raise ValueError(f"{listed} images are listed for each query, and the gallery holds {len(gallery_codes)}")
    return nearest_codes(query_codes, gallery_codes, bits, listed)[1]


def gallery_stems(names: Sequence[str]) -> list[str]:
    """Return names without their suffixes.

    Raises:
        ValueError: two names differ in their suffixes alone.
    """
    _check_names(names)
    stems = [PurePosixPath(name).stem for name in names]
    twice = _first_repeated(stems)
    if twice is not None:
        raise ValueError(f"two gallery images are called {twice!r} without their suffixes, and submit.csv has none")
    return stems


def problems_of(
    query_file: bytes,
    gallery_file: bytes,
    submitted: bytes,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    bits: int = BITS,
    listed: int = LISTED,
) -> list[str]:
    """Read three files as they will be sent, and say all that is wrong with them; an empty list where nothing is.

    Byte by byte: encoding, header, line ends and the last one, quotation marks, lengths and characters of codes, which
    images are there, and whether each ranking is what the codes in the other two files make of it.

    Args:
        query_file: submit_query.csv.
        gallery_file: submit_gallery.csv.
        submitted: submit.csv.
        query_names: images that must be in the first file, and no others; any order.
        gallery_names: likewise in the second.
        bits: length of a code.
        listed: images listed for each query.
    """
    query, query_problems = read_code_file(query_file, "submit_query.csv", bits)
    gallery, gallery_problems = read_code_file(gallery_file, "submit_gallery.csv", bits)
    rankings, ranking_problems = read_ranking_file(submitted, "submit.csv", listed)
    problems = [*query_problems, *gallery_problems, *ranking_problems]
    problems += _differences("submit_query.csv", list(query), query_names)
    problems += _differences("submit_gallery.csv", list(gallery), gallery_names)
    problems += _differences("submit.csv", list(rankings), query_names)
    if not problems:
        problems += list(_wrong_rankings(query, gallery, rankings, bits, listed))
    return problems


def read_code_file(content: bytes, name: str, bits: int = BITS) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a file of codes; return image to bits (K,) bool, and what is wrong with the file, naming it `name`."""
    lines, problems = _lines(content, name, CODE_HEADER)
    codes: dict[str, np.ndarray] = {}
    pattern = re.compile(rf"([^\s,'\"]+),'([01]{{{bits}}})'")
    for number, line in enumerate(lines, start=2):
        found = pattern.fullmatch(line)
        if not found:
            problems.append(f"{name}:{number}: {line!r} is not NAME,'{bits} times 0 or 1'")
        elif found[1] in codes:
            problems.append(f"{name}:{number}: {found[1]} is there twice")
        else:
            codes[found[1]] = np.frombuffer(found[2].encode("ascii"), np.uint8) == ord("1")
    return codes, problems


def read_ranking_file(content: bytes, name: str, listed: int = LISTED) -> tuple[dict[str, list[str]], list[str]]:
    """Read submit.csv; return query to names of gallery images, and what is wrong with the file."""
    lines, problems = _lines(content, name, RANKING_HEADER)
    rankings: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=2):
        query, comma, rest = line.partition(",")
        names = rest.split(" ")
        if not comma or FORBIDDEN.search(query) or not query or not all(names) or any(map(FORBIDDEN.search, names)):
            problems.append(f"{name}:{number}: {line[:80]!r} is not NAME,NAME NAME ...")
        elif query in rankings:
            problems.append(f"{name}:{number}: {query} is there twice")
        elif len(names) != listed or len(set(names)) != listed:
            problems.append(f"{name}:{number}: {len(set(names))} different images are listed, not {listed}")
        else:
            rankings[query] = names
    return rankings, problems


def _wrong_rankings(
    query: dict[str, np.ndarray],
    gallery: dict[str, np.ndarray],
    rankings: dict[str, list[str]],
    bits: int,
    listed: int,
) -> Iterator[str]:
    try:
        stems = gallery_stems(list(gallery))
        positions = ranking(pack(np.stack(list(query.values()))), pack(np.stack(list(gallery.values()))), bits, listed)
    except ValueError as error:
        yield f"submit.csv: {error}"
        return
    right = {name: [stems[place] for place in places] for name, places in zip(query, positions.tolist(), strict=True)}
    wrong = [name for name in rankings if rankings[name] != right[name]]
    if wrong:
        name = wrong[0]
        place = next(at for at in range(listed) if rankings[name][at] != right[name][at])
        yield (
            f"submit.csv: {len(wrong)} of {len(rankings)} rankings are not those of the codes; the first, {name}, "
            f"lists {rankings[name][place]} at place {place + 1}, where the codes say {right[name][place]}"
        )


def _lines(content: bytes, name: str, header: str) -> tuple[list[str], list[str]]:
    """Return the lines below the header, and what is wrong with the file as a whole."""
    problems = []
    if content.startswith(b"\xef\xbb\xbf"):
        problems.append(f"{name}: it starts with a byte order mark, which would be part of the header")
        content = content[3:]
    if b"\r" in content:
        problems.append(f"{name}: its lines end as on Windows (CR LF)")
        content = content.replace(b"\r", b"")
    if not content.endswith(b"\n"):
        problems.append(f"{name}: the last line has no line end, and the contest's script would cut its last bit off")
    try:
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        return [], [*problems, f"{name}: byte {error.start} is not UTF-8"]
    if lines[0] != header:
        problems.append(f"{name}: its header is {lines[0][:80]!r}, not {header!r}")
    return lines[1:], problems


def _differences(name: str, there: Sequence[str], wanted: Sequence[str]) -> list[str]:
    known, expected = set(there), set(wanted)
    missing, strange = sorted(expected - known), sorted(known - expected)
    problems = []
    if missing:
        problems.append(f"{name}: {len(missing)} images are missing: {', '.join(missing[:SHOWN])}")
    if strange:
        problems.append(f"{name}: {len(strange)} images do not belong there: {', '.join(strange[:SHOWN])}")
    return problems


def _check_names(names: Sequence[str]) -> None:
    twice = _first_repeated(names)
    if twice is not None:
        raise ValueError(f"the image {twice!r} is there twice")
    for name in names:
        if not name or FORBIDDEN.search(name):
            raise ValueError(
                f"the name {name!r} holds a blank, a comma or a quotation mark, which the files cannot say"
            )


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8")
