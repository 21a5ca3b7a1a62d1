"""Mean, deviation and 95 % interval of a few values: of seeds, folds, draws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Statistic:
    """Mean, sample standard deviation (n - 1) and half the width of the 95 % interval of `count` values.

    Of one value, deviation and interval are NaN: one value says nothing of the spread.
    """

    count: int
    mean: float
    deviation: float
    half_width: float


def statistic(values: Sequence[float]) -> Statistic:
    """Summarise one value or more; the interval is Student's, t(0.975, n - 1) * s / sqrt(n).

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("a statistic needs one value at least")
    count = len(values)
    if not all(math.isfinite(value) for value in values):
        return Statistic(count, math.nan, math.nan, math.nan)
    mean = statistics.fmean(values)
    if count == 1:
        return Statistic(count, mean, math.nan, math.nan)
    deviation = statistics.stdev(values)
    return Statistic(count, mean, deviation, _student(count - 1) * deviation / math.sqrt(count))


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
