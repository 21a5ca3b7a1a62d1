"""Whether one of two ways is better, from runs of both that are paired by seed: paired t test, sign test, Holm."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from records.statistic import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class PairedDifference:
    """What n pairs say of the difference, the first of each pair minus the second.

    `mean` and `half_width`, half of Student's 95 % interval, are in the metric's own unit. `t_p` is the two-sided p of
    the paired t test, NaN of fewer than two pairs and of differences that are all the same; `sign_p` that of the exact
    sign test, NaN where all pairs tie.
    """

    count: int
    mean: float
    half_width: float
    t_p: float
    sign_p: float
    wins: int
    losses: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare n pairs.

    Source: Student's paired t test; sign test: Dixon and Mood, JASA 1946.

    Raises:
        ValueError: there is no pair, or the two are not equally many.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    if not differences:
        raise ValueError("a comparison needs one pair at least")
    wins, losses = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    mean = statistics.fmean(differences)
    half_width, t_p = _student(differences, mean)
    return PairedDifference(len(differences), mean, half_width, t_p, sign_test(wins, losses), wins, losses)


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p of the exact sign test; ties are left out. NaN without a win and a loss."""
    count = wins + losses
    if count == 0:
        return math.nan
    tail = sum(math.comb(count, number) for number in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, Scandinavian Journal of Statistics 1979); NaN stays and counts for none.

    The adjusted p of the k-th smallest of m is the largest of (m - i + 1) p_i over i <= k, and 1 at most.
    """
    tested = sorted((value, place) for place, value in enumerate(values) if not math.isnan(value))
    adjusted, largest = list(values), 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[place] = largest
    return adjusted


def _student(differences: Sequence[float], mean: float) -> tuple[float, float]:
    """Return half the width of the interval, and the two-sided p."""
    count = len(differences)
    if count < 2 or not all(map(math.isfinite, differences)):
        return math.nan, math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    # equal differences differ in their last bits alone; they are one observation, however often it was made
    if error <= 1e-12 * max(map(abs, differences), default=0.0):
        return math.nan, math.nan
    from scipy.special import stdtr, stdtrit

    half_width = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    return half_width, 2 * float(stdtr(count - 1, -abs(mean / error)))
