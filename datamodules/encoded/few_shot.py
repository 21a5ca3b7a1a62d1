"""Few-shot data: a support set drawn from a pool by seed, and a validation part whose size is an explicit choice."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from datamodules.encoded.feature_sets import FeatureData, FeatureDataModule, FeatureSet
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import (
    Splits,
    check_split_file,
    label_fingerprint,
    order_within_classes,
    read_split_file,
    strata,
    write_split_file,
)
from records.errors import UserError
from records.notices import RunWarning

Validation = Literal["none", "min4", "min(shots,4)", "shots", "full"]
TooFew = Literal["error", "warn"]
POOLS = ("train", "val", "test")


@dataclass(frozen=True)
class Pools:
    """What a few-shot draw is made from.

    Args:
        labels: "train", "test", and "val" where the data have a validation part of their own; int64 (N,) each.
        class_names: name of every class, C of them.
        seen_classes: bool (C,), the classes that training samples are drawn of; None: all.
    """

    labels: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    seen_classes: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """Which samples are drawn: positions in the pools, int64, ascending; `validation_pool` is "train" or "val"."""

    support: Tensor
    validation: Tensor
    validation_pool: str


def validation_shots(validation: Validation, shots: int | None) -> int | None:
    """Return the validation samples of each class that a choice asks for; None for all there are.

    Args:
        validation: "none"; "min(shots,4)", or "min4" where a shell dislikes brackets (CoOp's rule); "shots" (LP++'s);
            "full".
        shots: training samples of each class; None for all.

    Raises:
        UserError: the choice is unknown, or counts shots where there is no number of them.
    """
    if validation not in get_args(Validation):
        raise UserError(f"data.validation is {validation!r}; the choices are {', '.join(get_args(Validation))}")
    if validation in ("none", "full"):
        return 0 if validation == "none" else None
    if shots is None:
        raise UserError(
            f"data.validation={validation} counts shots, and data.shots=null is no number; choose full or none"
        )
    return shots if validation == "shots" else min(shots, 4)


def draw_few_shot(pools: Pools, shots: int | None, validation: int | None, seed: int, too_few: TooFew) -> Draw:
    """Draw the support set and the validation part; a pure function of its arguments.

    The draws of one seed are nested: the support set of 1 shot lies in that of 2 shots, and so on. Validation samples
    come from the pool "val" where there is one, otherwise from what the shots leave of "train".

    Args:
        pools: labels by pool.
        shots: samples of each class; None takes the whole pool.
        validation: validation samples of each class; None takes all there are.
        seed: any integer.
        too_few: what a class with fewer samples than that means: "error", or "warn" and take what there is.

    Raises:
        UserError: a class has too few samples.
    """
    labels = pools.labels["train"]
    seen = _seen(pools)
    members = _by_class(labels, seen, seed, Stream.SPLIT)
    support = [rows[:shots] for rows in members.values()]
    _check_counts("shots", {c: len(rows) for c, rows in zip(members, support, strict=True)}, shots, pools, too_few)
    if "val" in pools.labels:
        pool, rest = "val", _by_class(pools.labels["val"], seen, seed, Stream.HOLD_OUT)
    else:
        pool, rest = "train", {c: rows[len(drawn) :] for (c, rows), drawn in zip(members.items(), support, strict=True)}
    held = [rows[:validation] for rows in rest.values()]
    _check_counts("validation", {c: len(rows) for c, rows in zip(rest, held, strict=True)}, validation, pools, too_few)
    return Draw(_sorted(support), _sorted(held), pool)


def _seen(pools: Pools) -> list[int]:
    if pools.seen_classes is None:
        return list(range(len(pools.class_names)))
    return pools.seen_classes.nonzero()[:, 0].tolist()


def _by_class(labels: Tensor, classes: list[int], seed: int, stream: Stream) -> dict[int, np.ndarray]:
    ordered = order_within_classes(strata(labels), seed, stream)
    return {number: ordered.get(number, np.zeros(0, dtype=np.int64)) for number in classes}


def _sorted(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(parts))) if parts else torch.zeros(0, dtype=torch.int64)


def _check_counts(key: str, found: Mapping[int, int], wanted: int | None, pools: Pools, too_few: TooFew) -> None:
    """Raise or warn where a class has fewer samples than `wanted`; None asks for one of each class to train on."""
    least = (1 if key == "shots" else 0) if wanted is None else wanted
    short = {number: count for number, count in found.items() if count < least}
    if not short:
        return
    names = ", ".join(f"{pools.class_names[number]} ({count})" for number, count in list(short.items())[:5])
    more = ", ..." if len(short) > 5 else ""
    text = f"data.{key} asks for {least} samples of each class; {len(short)} classes have fewer: {names}{more}"
    if too_few == "error" or (key == "shots" and 0 in short.values()):
        fewer = "data.validation=none" if key == "validation" else "fewer shots"
        mend = f"choose {fewer}, or data.too_few=warn to take what there is (at least one to train on)"
        raise UserError(f"{text}; {mend}")
    warnings.warn(f"{text}; all they have is taken", RunWarning, stacklevel=4)


class FewShotDataModule(FeatureDataModule):
    """Features of which a few samples per class are trained on; a source adds its pools and their features.

    Args:
        shots: training samples of each class (1, 2, 4, 8 and 16 in the literature); None for the whole pool.
        validation: validation samples: "none", "min(shots,4)" (also "min4"), "shots" of each class, or "full".
        too_few: what a class with fewer samples than asked for means: "error", or "warn" and take what there is.
        split_seed: seed of the draw.
        split_file: read the draw from this file in place of making it.
        split_dir: write the draw to a file in this folder; None writes nothing.
        shared: see `FeatureDataModule`.

    Attributes:
        pools_are_drawn: the pools themselves depend on `split_seed`: which samples are the test part.

    Raises:
        UserError: a value is out of range.
    """

    pools_are_drawn: ClassVar[bool] = False

    def __init__(
        self,
        *,
        shots: int | None = 16,
        validation: Validation = "min(shots,4)",
        too_few: TooFew = "error",
        split_seed: int = 0,
        split_file: str | Path | None = None,
        split_dir: str | Path | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if shots is not None and shots < 1:
            raise UserError(f"data.shots is {shots}; it must be at least 1, or null for the whole pool")
        if too_few not in get_args(TooFew):
            raise UserError(f"data.too_few is {too_few!r}; the choices are {', '.join(get_args(TooFew))}")
        self.shots = shots
        self.validation: Validation = "min(shots,4)" if validation == "min4" else validation
        self.validation_shots = validation_shots(self.validation, shots)
        self.too_few: TooFew = too_few
        self.split_seed = split_seed
        self.split_file = split_file
        self.split_dir = split_dir
        self._pools: Pools | None = None
        self._splits: Splits | None = None
        self._test: tuple[Tensor, FeatureSet] | None = None

    @property
    @abstractmethod
    def source_name(self) -> str:
        """Name of the data, fit for a file name."""

    @abstractmethod
    def load_pools(self) -> Pools:
        """Read the labels of the pools and the names of the classes; called once."""

    @abstractmethod
    def pool_features(self, pool: str, positions: Tensor, split: str) -> Tensor:
        """Features of a pool at positions int64 (n,), taken for a split: (n, D), or (n, V, D) of the pool "train"."""

    @abstractmethod
    def load_text(self) -> Tensor | None:
        """Text features (C, D), or None where there are none; they depend on no draw."""

    @cached_property
    def class_text(self) -> Tensor | None:
        """Text features (C, D), or None where there are none; made at the first use, and one tensor for all draws."""
        return self.load_text()

    def load_unlabelled(self) -> Tensor | None:
        """Unlabelled features (M, D) beside the test's; None where there are none."""
        return None

    def redrawn(self, seed: int, split_seed: int, split_file: str | Path | None = None) -> Self:
        """Return the same data with another draw; what was read of files, text, and equal test parts serve both.

        Args:
            seed: the run's seed.
            split_seed: seed of the draw.
            split_file: read the draw from this file in place of making it.
        """
        other = copy.copy(self)
        other.seed, other.split_seed, other.split_file = seed, split_seed, split_file
        other._splits = other._loaded = None
        if self.pools_are_drawn:
            other._pools = other._test = None
        return other

    @property
    def pools(self) -> Pools:
        """Labels by pool; read at the first use."""
        if self._pools is None:
            self._pools = self.load_pools()
        return self._pools

    @property
    def splits(self) -> Splits:
        """The draw, as positions in the pools laid end to end; made or read at the first use."""
        if self._splits is None:
            self._splits = self._read_splits() if self.split_file is not None else self._draw_splits()
        return self._splits

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts, fit for a file name."""
        shots = "all" if self.shots is None else str(self.shots)
        validation = {"none": "none", "min(shots,4)": "min4"}.get(self.validation, self.validation)
        return f"{self.source_name}-{shots}shot-val-{validation}"

    @property
    def split_path(self) -> Path:
        """The file that `split_dir` asks for."""
        if self.split_dir is None:
            raise ValueError("split_dir is None: no split file is written")
        return Path(self.split_dir) / f"{self.protocol_name}-seed{self.split_seed}.json"

    @property
    def evaluation_protocol(self) -> dict[str, str | int]:
        """Shots, validation shots and seed of the draw, for the record."""
        return {
            "shots": "all" if self.shots is None else self.shots,
            "validation": self.validation,
            "validation_samples": len(self.splits.parts["validation"]),
            "split_seed": self.split_seed,
        }

    def setup(self, stage: str | None = None) -> None:
        """Draw and read the features, once; write the split file."""
        is_new = self._loaded is None
        super().setup(stage)
        if is_new and self.split_dir is not None:
            rank_zero_only(write_split_file)(self.split_path, self.splits)

    def load(self) -> FeatureData:
        """Draw the parts and take their features."""
        splits = {"train": "train", "validation": "val", "test": "test"}
        sets = {splits[part]: self._take(rows, splits[part]) for part, rows in self.splits.parts.items() if len(rows)}
        return FeatureData(
            sets, self.pools.class_names, self.class_text, self.load_unlabelled(), self.pools.seen_classes
        )

    def pool_positions(self, split: str) -> tuple[str, Tensor]:
        """Which pool a split lies in, and at which positions, int64 (N,)."""
        part = {"val": "validation"}.get(split, split)
        return self._pool_of(self.splits.parts[part])

    def _take(self, rows: Tensor, split: str) -> FeatureSet:
        if split == "test" and self._test is not None and torch.equal(self._test[0], rows):
            return self._test[1]
        taken = self._features_of(rows, split)
        if split == "test":
            self._test = (rows, taken)
        return taken

    def _features_of(self, rows: Tensor, split: str) -> FeatureSet:
        pool, positions = self._pool_of(rows)
        features = self.pool_features(pool, positions, split)
        if features.ndim == 3 and split != "train":
            features = F.normalize(features.mean(dim=1), dim=1)
        return FeatureSet(features, self.pools.labels[pool][positions])

    def _starts(self) -> dict[str, int]:
        present = [pool for pool in POOLS if pool in self.pools.labels]
        ends = np.cumsum([len(self.pools.labels[pool]) for pool in present]).tolist()
        return dict(zip(present, [0, *ends], strict=False))

    def _pool_of(self, rows: Tensor) -> tuple[str, Tensor]:
        pool, start = max(
            (item for item in self._starts().items() if not len(rows) or item[1] <= int(rows[0])),
            key=lambda item: item[1],
        )
        return pool, rows - start

    def _draw_splits(self) -> Splits:
        drawn = draw_few_shot(self.pools, self.shots, self.validation_shots, self.split_seed, self.too_few)
        start = self._starts()
        parts = {
            "train": drawn.support + start["train"],
            "validation": drawn.validation + start[drawn.validation_pool],
            "test": torch.arange(len(self.pools.labels["test"])) + start["test"],
        }
        return self._described(parts)

    def _described(self, parts: Mapping[str, Tensor]) -> Splits:
        labels = torch.cat([self.pools.labels[pool] for pool in self._starts()])
        return Splits(self.protocol_name, self.split_seed, 0.0, label_fingerprint(labels), parts)

    def _read_splits(self) -> Splits:
        assert self.split_file is not None
        splits = read_split_file(self.split_file)
        size = sum(len(labels) for labels in self.pools.labels.values())
        check_split_file(splits, self.split_file, self._described({}), ("train", "validation", "test"), size)
        return splits
