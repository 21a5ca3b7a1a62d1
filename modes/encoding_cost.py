"""What encoding would cost: some batches of every feature bank that lacks any are timed, the rest is extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from datamodules.encoded.feature_bank import EncodeRange, FeatureBank
from records.duration import duration


@dataclass(frozen=True)
class EncodingCost:
    """What one feature bank has, lacks, and how fast it would be filled.

    Args:
        what: is encoded, and by which encoder.
        count: items in all.
        lacking: those that are still to be encoded.
        speed: items a second of this process; None where none were timed.
        timed: batches that the speed comes from.
    """

    what: str
    count: int
    lacking: int
    speed: float | None
    timed: int

    @property
    def seconds(self) -> float | None:
        """How long encoding what lacks will take; None where that is not known."""
        return 0.0 if not self.lacking else None if self.speed is None else self.lacking / self.speed

    @property
    def text(self) -> str:
        """All of it in words."""
        if not self.lacking:
            return f"{self.count:,} are in the feature bank already"
        if self.speed is None or self.seconds is None:
            return f"{self.lacking:,} of {self.count:,} to be encoded, not timed (steps=0)"
        batches = "batch" if self.timed == 1 else "batches"
        return (
            f"{duration(self.seconds, roughly=True)} for {self.lacking:,} of {self.count:,}, "
            f"at {self.speed:,.1f} a second ({self.timed} {batches} timed, one process)"
        )


@dataclass(frozen=True)
class EncodingSurvey:
    """Stands where feature banks are filled: fills none, and notes what each of them would cost.

    A bank that is complete is read. For one that is not it gives rows of ones of the right shape: sizes, classes and
    times of steps are those of the run, and nothing else may be made of them.

    Args:
        batches: how many are timed, after a first one that is not, where there are more; 0 times none.
        clock: seconds.
        found: what has been found, a bank after the other.
    """

    batches: int
    clock: Callable[[], float] = time.perf_counter
    found: list[EncodingCost] = field(default_factory=list)

    def __call__(self, bank: FeatureBank, what: str, encode: EncodeRange) -> Tensor:
        """Note what a bank would cost; return features or their stand-ins (N, V, D).

        Raises:
            UserError: a shard that is there is damaged, or belongs to another bank.
        """
        bank.refuse_foreign_shards()
        missing = bank.missing()
        if not missing:
            self.found.append(EncodingCost(what, bank.count, 0, None, 0))
            return bank.read()
        width, speed, timed = self._encoded(encode, bank.bounds(missing[0])[0], bank.count)
        self.found.append(EncodingCost(what, bank.count, bank.size_of(missing), speed, timed))
        return torch.ones(()).expand(bank.count, bank.key.views, width)

    def _encoded(self, encode: EncodeRange, start: int, stop: int) -> tuple[int, float | None, int]:
        """Encode the first batches; return the features' width, items a second, and how many batches tell it."""
        sizes, moments, width = [], [self.clock()], 0
        for features in islice(encode(start, stop), self.batches + 1):
            sizes.append(len(features))
            moments.append(self.clock())
            width = features.shape[-1]
        if not self.batches:
            return width, None, 0
        # the first batch starts workers, and on a GPU kernels are chosen
        skipped = 1 if len(sizes) > 1 else 0
        return width, sum(sizes[skipped:]) / (moments[-1] - moments[skipped]), len(sizes) - skipped
