"""Which images belong to which part: drawing by seed, and split files with a checksum."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.sampling.randomness import Stream, random_bits
from records.atomic_file import write_text
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

FORMAT = "image-splits"
VERSION = 1


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, as positions in it.

    Args:
        protocol: name of the rule that made them.
        seed: the seed they were drawn with; None where none was used or known.
        val_fraction: share of the protocol's training part that was held out as "validation"; 0 for none.
        fold: which fold of how many was held out as "validation" instead of a share; None for neither.
        data_fingerprint: `label_fingerprint` of the data set.
        parts: name to int64 (N,) positions.
    """

    protocol: str
    seed: int | None
    val_fraction: float
    data_fingerprint: str
    parts: Mapping[str, torch.Tensor]
    fold: tuple[int, int] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of every part."""
        return {name: len(positions) for name, positions in self.parts.items()}

    @property
    def fingerprint(self) -> str:
        """Sha256, as hexadecimal text, of the data's fingerprint and all lists of positions."""
        digest = hashlib.sha256(self.data_fingerprint.encode())
        for name in sorted(self.parts):
            digest.update(f"\n{name} {len(self.parts[name])}\n".encode())
            digest.update(self.parts[name].numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def label_fingerprint(labels: torch.Tensor) -> str:
    """Hash the labels, int64 (N,) or multi-hot (N, C), in their order: what positions rely on."""
    digest = hashlib.sha256(str(tuple(labels.shape)).encode())
    digest.update(labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def names_fingerprint(names: Iterable[str], data_fingerprint: str) -> str:
    """Hash names in their order on top of a fingerprint: two data sets of equal labels may hold other images."""
    digest = hashlib.sha256(data_fingerprint.encode())
    for name in names:
        digest.update(f"\n{name}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def strata(labels: torch.Tensor) -> NDArray[np.int64]:
    """Name the group each sample is drawn in, int64 (N,): its class, or the rarest of its classes.

    Args:
        labels: int64 (N,), or multi-hot (N, C); a sample without any class belongs to group C.
    """
    if labels.ndim == 1:
        return labels.numpy().astype(np.int64)
    hot = labels.numpy() > 0
    rarity = np.argsort(hot.sum(axis=0), kind="stable")
    by_rarity = hot[:, rarity]
    return np.where(by_rarity.any(axis=1), rarity[by_rarity.argmax(axis=1)], hot.shape[1]).astype(np.int64)


def order_within_classes(groups: NDArray[np.int64], seed: int, stream: Stream) -> dict[int, NDArray[np.int64]]:
    """Order the members of every group at random, a pure function of (seed, stream, position).

    Args:
        groups: int64 (N,).
        seed: any integer.
        stream: what the order is for.

    Returns:
        group to int64 positions, groups ascending.
    """
    keys = random_bits(seed, 0, stream, np.arange(len(groups)))
    by_group = np.lexsort((keys, groups))
    present, starts = np.unique(groups[by_group], return_index=True)
    return dict(zip(present.tolist(), np.split(by_group, starts[1:]), strict=True))


def stratified_counts(sizes: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many of each group to hold out: round(fraction * total) in all, shared by largest remainders.

    No group is emptied: each keeps at least one member.

    Args:
        sizes: int64 (G,), members of each group.
        fraction: in (0, 1).
    """
    total = round(fraction * int(sizes.sum()))
    exact = fraction * sizes
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(counts - exact, kind="stable")
    while (missing := total - int(counts.sum())) > 0:
        candidates = [group for group in by_remainder if counts[group] < sizes[group] - 1][:missing]
        if not candidates:
            break
        counts[candidates] += 1
    return counts


def stratified_hold_out(
    labels: torch.Tensor, fraction: float, seed: int, stream: Stream = Stream.HOLD_OUT
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold out a share of every class.

    Args:
        labels: int64 (N,), or multi-hot (N, C) (then grouped by `strata`).
        fraction: share to hold out, in (0, 1).
        seed: any integer.
        stream: what the draw is for.

    Returns:
        kept and held-out places in `labels`, int64, ascending, together 0 .. N - 1.

    Raises:
        UserError: the fraction holds out nothing.
    """
    ordered = order_within_classes(strata(labels), seed, stream)
    counts = stratified_counts(np.array([len(members) for members in ordered.values()]), fraction)
    if not counts.sum():
        raise UserError(
            f"a validation part of {fraction} of {len(labels)} images in {len(ordered)} classes is empty; "
            "take a larger data.val_fraction, or 0 for none"
        )
    held = np.concatenate([members[:count] for members, count in zip(ordered.values(), counts, strict=True)])
    is_held = np.zeros(len(labels), dtype=bool)
    is_held[held] = True
    return torch.from_numpy(np.flatnonzero(~is_held)), torch.from_numpy(np.flatnonzero(is_held))


def stratified_folds(
    labels: torch.Tensor, folds: int, seed: int, stream: Stream = Stream.HOLD_OUT
) -> list[torch.Tensor]:
    """Deal the samples out to folds, class after class, as cards are dealt.

    The folds' sizes differ by one at most, and so do their shares of each class.

    Args:
        labels: int64 (N,), or multi-hot (N, C) (then grouped by `strata`).
        folds: number of folds K, 2 .. N.
        seed: any integer.
        stream: what the draw is for.

    Returns:
        K lists of places in `labels`, int64, ascending: a partition of 0 .. N - 1.

    Raises:
        UserError: there are fewer samples than folds.
    """
    if len(labels) < folds:
        raise UserError(f"data.folds is {folds}, and there are {len(labels)} images to train on; take fewer folds")
    ordered = order_within_classes(strata(labels), seed, stream)
    dealt = np.concatenate(list(ordered.values()))
    return [torch.from_numpy(np.sort(dealt[fold::folds])) for fold in range(folds)]


def hold_out_fold(splits: Splits, labels: torch.Tensor, fold: int, folds: int, seed: int) -> Splits:
    """Split the part "train": fold `fold` of `folds` becomes "validation"; the other parts stay as they were drawn.

    Raises:
        UserError: there are fewer training images than folds.
    """
    pool = splits.parts["train"]
    held = stratified_folds(labels[pool], folds, seed)[fold]
    is_held = torch.zeros(len(pool), dtype=torch.bool)
    is_held[held] = True
    parts = {**splits.parts, "train": pool[~is_held], "validation": pool[is_held]}
    return replace(splits, val_fraction=0.0, fold=(fold, folds), parts=parts)


def hold_out_validation(splits: Splits, labels: torch.Tensor, fraction: float, seed: int) -> Splits:
    """Split the part "train" into "train" and "validation"; the other parts stay as the protocol drew them.

    Raises:
        UserError: the fraction holds out nothing.
    """
    pool = splits.parts["train"]
    kept, held = stratified_hold_out(labels[pool], fraction, seed)
    parts = {**splits.parts, "train": pool[kept], "validation": pool[held]}
    return replace(splits, val_fraction=fraction, parts=parts)


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_split_file(path: str | Path, splits: Splits) -> None:
    """Write splits as JSON with a sha256 over the rest of the file; replaced as a whole or not at all."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": splits.protocol,
        "seed": splits.seed,
        "val_fraction": splits.val_fraction,
        **({} if splits.fold is None else {"fold": list(splits.fold)}),
        "data_fingerprint": splits.data_fingerprint,
        "sizes": splits.sizes,
        "parts": {name: positions.tolist() for name, positions in splits.parts.items()},
    }
    write_text(Path(path), json.dumps({**content, "sha256": _checksum(content)}) + "\n")


def read_split_file(path: str | Path) -> Splits:
    """Read what `write_split_file` wrote.

    Raises:
        UserError: the file is missing, is no split file, is of another version, or does not fit its checksum.
    """
    content = _read_json(Path(path))
    stored = content.pop("sha256", None)
    if content.get("format") != FORMAT or stored is None:
        raise UserError(f"{path} is not a split file; data.split_file takes one that a run has written")
    if content.get("version") != VERSION:
        raise UserError(f"{path} is a split file of version {content.get('version')}; this release reads {VERSION}")
    if _checksum(content) != stored:
        raise UserError(
            f"{path} does not fit its own checksum: it was changed or damaged after it was written. "
            "Take an intact copy, or draw the splits anew with data.split_file=null"
        )
    parts = {name: torch.tensor(positions, dtype=torch.int64) for name, positions in content["parts"].items()}
    return Splits(
        protocol=content["protocol"],
        seed=content["seed"],
        val_fraction=content["val_fraction"],
        data_fingerprint=content["data_fingerprint"],
        parts=parts,
        fold=None if content.get("fold") is None else (content["fold"][0], content["fold"][1]),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"data.split_file={path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a split file: it is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a split file; data.split_file takes one that a run has written")
    return content


def check_split_file(splits: Splits, path: str | Path, wanted: Splits, names: Iterable[str], size: int) -> None:
    """Refuse splits that were read from a file but do not belong to this data set and these settings.

    Args:
        splits: what the file holds.
        path: the file, for the message.
        wanted: protocol, seed (None where it has no say), held-out share or fold, and data fingerprint that the
            settings ask for.
        names: parts that must be there.
        size: number of images of the data set.

    Raises:
        UserError: with every difference and the override that mends it.
    """
    problems: list[str] = []
    if splits.data_fingerprint != wanted.data_fingerprint:
        problems.append("it was made for other data (the labels or their order differ)")
    if splits.protocol != wanted.protocol:
        problems.append(f"it holds protocol {splits.protocol!r}, the settings ask for {wanted.protocol!r}")
    if None not in (splits.seed, wanted.seed) and splits.seed != wanted.seed:
        problems.append(f"it was drawn with data.split_seed={splits.seed}, the settings say {wanted.seed}")
    if splits.val_fraction != wanted.val_fraction:
        problems.append(f"it was made with data.val_fraction={splits.val_fraction}, not {wanted.val_fraction}")
    if splits.fold != wanted.fold:
        problems.append(f"it holds out {_fold_words(splits.fold)}, the settings ask for {_fold_words(wanted.fold)}")
    missing = [name for name in names if name not in splits.parts]
    if missing:
        problems.append(f"it lacks the part(s) {', '.join(missing)}")
    outside = [name for name, part in splits.parts.items() if ((part < 0) | (part >= size)).any()]
    if outside:
        problems.append(f"its part(s) {', '.join(outside)} name positions outside 0 .. {size - 1}")
    if problems:
        raise UserError(
            f"data.split_file={path} does not fit: {'; '.join(problems)}. "
            "Set these keys to the file's values, or draw the splits anew with data.split_file=null"
        )


def _fold_words(fold: tuple[int, int] | None) -> str:
    return "no fold" if fold is None else f"data.fold={fold[0]} of data.folds={fold[1]}"


def per_class_parts(
    labels: torch.Tensor, counts: Sequence[tuple[str, int]], seed: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Draw fixed numbers of images per class, one part after the other, without overlap.

    Args:
        labels: int64 (N,).
        counts: pairs of part and images per class, in drawing order.
        seed: any integer.

    Returns:
        part to positions, and the positions that remain; int64, ascending.

    Raises:
        UserError: a class has too few images.
    """
    ordered = order_within_classes(strata(labels), seed, Stream.SPLIT)
    needed = sum(count for _, count in counts)
    for group, members in ordered.items():
        if len(members) < needed:
            raise UserError(f"class {group} has {len(members)} images; the protocol draws {needed} of each class")
    parts: dict[str, torch.Tensor] = {}
    start = 0
    for name, count in counts:
        drawn = np.concatenate([members[start : start + count] for members in ordered.values()])
        parts[name] = torch.from_numpy(np.sort(drawn))
        start += count
    rest = np.concatenate([members[start:] for members in ordered.values()])
    return parts, torch.from_numpy(np.sort(rest))
