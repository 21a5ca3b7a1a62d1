"""Learning-rate schedules: the multiplier of the learning rate as a pure function of the share of the run that is done.

A schedule knows no epochs and no steps, only which share of the run one of them is, so a shorter run still warms up and
still decays.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal


class Schedule(ABC):
    """A multiplier of the learning rate over the run: a linear warm-up from nothing, times the schedule's own course.

    `warmup` is the share of the run in [0, 1) that warms up; `interval` says whether the multiplier moves with steps or
    with epochs.

    Raises:
        ValueError: `warmup` is no such share.
    """

    def __init__(self, warmup: float = 0.0, interval: Literal["step", "epoch"] = "step") -> None:
        check_share("warmup", warmup, warmup >= 0, "[0, 1)")
        self.warmup = warmup
        self.interval: Literal["step", "epoch"] = interval

    def multiplier(self, progress: float, unit: float = 0.0) -> float:
        """Return the multiplier at `progress`, the share of the run that is done, in [0, 1].

        `unit` is the share that one step or epoch is; see `warmed_up`.
        """
        return warmed_up(progress, self.warmup, unit) * self.course(progress)

    @abstractmethod
    def course(self, progress: float) -> float:
        """Return the multiplier at `progress` without the warm-up."""


def warmed_up(progress: float, warmup: float, unit: float = 0.0) -> float:
    """Return the multiplier of a linear warm-up over the first `warmup` share of the run, 1 afterwards.

    The step or epoch that begins at `progress` has what is due at its end, `unit` later: of five epochs of warm-up the
    first has 1/5 and the fifth 1, and none is spent at 0 (as in Cao et al., LDAM-DRW, NeurIPS 2019, their code).
    """
    return min((progress + unit) / warmup, 1.0) if warmup > 0 else 1.0


def check_share(name: str, value: float, above_floor: bool, choices: str) -> None:
    """Refuse a value of `schedule.NAME` that is no share of the run.

    Raises:
        ValueError: `value` is not below 1, or below its floor.
    """
    if not (above_floor and value < 1):
        raise ValueError(
            f"schedule.{name}={value}: it is a share of the run, not epochs, and lies in {choices}; "
            f"5 of 200 epochs are {5 / 200}"
        )


def cosine_between(start: float, end: float, progress: float) -> float:
    """Return the value at `progress` in [0, 1] of half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class Constant(Schedule):
    """The same learning rate throughout, after an optional linear warm-up."""

    def course(self, progress: float) -> float:
        """Return 1."""
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, ICLR 2017, eq. 5), after an optional linear warm-up."""

    def __init__(self, warmup: float = 0.0, final: float = 0.0, interval: Literal["step", "epoch"] = "step") -> None:
        super().__init__(warmup, interval)
        self.final = final

    def course(self, progress: float) -> float:
        """Return 1 before `warmup`, the cosine over the rest of the run."""
        return cosine_between(1.0, self.final, max(progress - self.warmup, 0.0) / (1 - self.warmup))


class OneCycle(Schedule):
    """A cosine from `start` up to 1 over the first `rise` share of the run, then down to `final` (arXiv 1708.07120).

    Raises:
        ValueError: `rise` is not in (0, 1).
    """

    def __init__(
        self,
        rise: float = 0.3,
        start: float = 0.04,
        final: float = 4e-6,
        interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(interval=interval)
        check_share("rise", rise, rise > 0, "(0, 1)")
        self.rise = rise
        self.start = start
        self.final = final

    def course(self, progress: float) -> float:
        """Return the rising cosine before `rise`, the falling one after it."""
        if progress < self.rise:
            return cosine_between(self.start, 1.0, progress / self.rise)
        return cosine_between(1.0, self.final, (progress - self.rise) / (1 - self.rise))


class Step(Schedule):
    """Times `factor` at each of the `milestones` (shares of the run), after an optional linear warm-up.

    Raises:
        ValueError: a milestone is not in (0, 1), or `warmup` not in [0, 1).
    """

    def __init__(
        self,
        milestones: Sequence[float],
        factor: float = 0.1,
        warmup: float = 0.0,
        interval: Literal["step", "epoch"] = "epoch",
    ) -> None:
        super().__init__(warmup, interval)
        for milestone in milestones:
            check_share("milestones", milestone, milestone > 0, "(0, 1)")
        self.milestones = tuple(milestones)
        self.factor = factor

    def course(self, progress: float) -> float:
        """Return factor ** (milestones passed)."""
        # epoch 120 of 200 must have passed 0.6 whatever the division's last bit says
        passed = sum(progress >= milestone - 1e-9 for milestone in self.milestones)
        return float(self.factor**passed)
