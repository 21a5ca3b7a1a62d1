"""The images that an expert of a cascade has learnt from, held against those that the cascade is judged by."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.base import ImageDataModule
from datamodules.encoded.encoded_images import EncodedFewShot
from datamodules.images.image_files import ImageFiles
from datamodules.sampling.splits import read_split_file
from modes import build
from records.errors import UserError
from records.notices import RunWarning
from records.run_directory import RunDirectory

DRAW_KEYS = ("split_seed", "shots", "validation", "test_fraction", "support_list", "hold_unseen", "split_file")
"""Keys of the data that decide which images are trained on and which are judged."""


@dataclass(frozen=True)
class ExpertRun:
    """A run whose classifier is an encoder of a cascade.

    Args:
        key: what names it, `task.encoders.NAME.run`.
        run: its directory.
        data: the data's part of its stored configuration.
        image_size: of its network.
    """

    key: str
    run: RunDirectory
    data: Mapping[str, Any]
    image_size: int


def check_unseen(expert: ExpertRun, data: EncodedFewShot, settings: Mapping[str, Any]) -> None:
    """Make sure that no image of the test part was trained on by the expert.

    Args:
        expert: the run.
        data: what the cascade is judged by; drawn, and not necessarily encoded.
        settings: the data's part of the cascade's configuration.

    Raises:
        UserError: the expert was trained on images of the test part.

    Warns:
        RunWarning: it was trained on validation images; or its images cannot be compared.
    """
    learnt = _files_trained_on(expert, settings)
    if learnt is None:
        warnings.warn(
            f"{expert.key}={expert.run.path}: the images that it was trained on are not to be found, so nobody has "
            f"looked whether they are in this run's test part; {_differing(expert.data, settings)}",
            RunWarning,
            stacklevel=4,
        )
        return
    seen = {split: _count_seen(data, split, learnt) for split in ("test", "val")}
    if seen["test"]:
        raise UserError(
            f"{expert.key}={expert.run.path}: it was trained on {seen['test']:,} of the "
            f"{len(_files_of(data, 'test')):,} images of this run's test part, so what is measured there would be too "
            f"good; {_differing(expert.data, settings)}. Train it with this run's values, or give this run its own"
        )
    if seen["val"]:
        warnings.warn(
            f"{expert.key}={expert.run.path}: it was trained on {seen['val']:,} of the "
            f"{len(_files_of(data, 'val')):,} validation images, so what is measured on them is too good; "
            f"{_differing(expert.data, settings)}",
            RunWarning,
            stacklevel=4,
        )


def _files_trained_on(expert: ExpertRun, settings: Mapping[str, Any]) -> set[Path] | None:
    """Return the files of the expert's training part; None where its draw cannot be made again."""
    drawn = {read_split_file(file).fingerprint for file in sorted((expert.run.path / "splits").glob("*.json"))}
    # first where this run's images lie: the same images may have moved since, or been copied
    roots = [node["root"] for node in (settings, expert.data) if "root" in expert.data and "root" in node]
    for root in dict.fromkeys(roots):
        try:
            data = build.new_data({"data": {**expert.data, "root": root, "split_dir": None}}, expert.image_size)
            if not isinstance(data, ImageDataModule):
                return None
            is_known = not drawn or data.splits.fingerprint in drawn
        except UserError:
            continue
        source = data.data.source
        if is_known and isinstance(source, ImageFiles):
            return {source.path(position).resolve() for position in data.positions("train").tolist()}
    return None


def _files_of(data: EncodedFewShot, split: str) -> Sequence[Path]:
    pool, rows = data.pool_positions(split)
    return [data.images.files[pool][row] for row in rows.tolist()]


def _count_seen(data: EncodedFewShot, split: str, learnt: set[Path]) -> int:
    return sum(file.resolve() in learnt for file in _files_of(data, split))


def _differing(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Say which keys of the draw differ."""
    keys = [key for key in DRAW_KEYS if key in theirs and key in own and theirs[key] != own[key]]
    if not keys:
        return "the keys of both draws are the same"
    return "the draws differ in " + ", ".join(f"data.{key} ({theirs[key]} there, {own[key]} here)" for key in keys)
