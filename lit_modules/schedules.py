"""Learning-rate schedules: the multiplier of the learning rate as a pure function of the share of the run that is done.

A schedule knows no epochs and no steps, so a shorter run still warms up and still decays.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal


class Schedule(ABC):
    """A multiplier of the learning rate over the run; `interval` says whether it moves with steps or with epochs."""

    def __init__(self, interval: Literal["step", "epoch"] = "step") -> None:
        self.interval: Literal["step", "epoch"] = interval

    @abstractmethod
    def multiplier(self, progress: float) -> float:
        """Return the multiplier at `progress`, the share of the run that is done, in [0, 1]."""


def warmed_up(progress: float, warmup: float) -> float:
    """Return the multiplier of a linear warm-up over the first `warmup` share of the run, 1 afterwards."""
    return 1.0 if progress >= warmup else progress / warmup


def cosine_between(start: float, end: float, progress: float) -> float:
    """Return the value at `progress` in [0, 1] of half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class Constant(Schedule):
    """The same learning rate throughout, after an optional linear warm-up."""

    def __init__(self, warmup: float = 0.0, interval: Literal["step", "epoch"] = "step") -> None:
        super().__init__(interval)
        self.warmup = warmup

    def multiplier(self, progress: float) -> float:
        """Return 1 after the warm-up."""
        return warmed_up(progress, self.warmup)


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, ICLR 2017, eq. 5), after an optional linear warm-up."""

    def __init__(self, warmup: float = 0.0, final: float = 0.0, interval: Literal["step", "epoch"] = "step") -> None:
        super().__init__(interval)
        self.warmup = warmup
        self.final = final

    def multiplier(self, progress: float) -> float:
        """Return the warm-up's multiplier before `warmup`, the cosine over the rest of the run."""
        if progress < self.warmup:
            return warmed_up(progress, self.warmup)
        return cosine_between(1.0, self.final, (progress - self.warmup) / (1 - self.warmup))


class OneCycle(Schedule):
    """A cosine from `start` up to 1 over the first `rise` share of the run, then down to `final` (arXiv 1708.07120)."""

    def __init__(
        self,
        rise: float = 0.3,
        start: float = 0.04,
        final: float = 4e-6,
        interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(interval)
        self.rise = rise
        self.start = start
        self.final = final

    def multiplier(self, progress: float) -> float:
        """Return the rising cosine before `rise`, the falling one after it."""
        if progress < self.rise:
            return cosine_between(self.start, 1.0, progress / self.rise)
        return cosine_between(1.0, self.final, (progress - self.rise) / (1 - self.rise))


class Step(Schedule):
    """Times `factor` at each of the `milestones` (shares of the run), after an optional linear warm-up."""

    def __init__(
        self,
        milestones: Sequence[float],
        factor: float = 0.1,
        warmup: float = 0.0,
        interval: Literal["step", "epoch"] = "epoch",
    ) -> None:
        super().__init__(interval)
        self.milestones = tuple(milestones)
        self.factor = factor
        self.warmup = warmup

    def multiplier(self, progress: float) -> float:
        """Return factor ** (milestones passed), times the warm-up."""
        # epoch 120 of 200 must have passed 0.6 whatever the division's last bit says
        passed = sum(progress >= milestone - 1e-9 for milestone in self.milestones)
        return warmed_up(progress, self.warmup) * self.factor**passed
