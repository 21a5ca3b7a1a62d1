"""How far a mean over queries would move with other queries: the percentile bootstrap."""

from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
BLOCK = 2**20


class Interval(NamedTuple):
    """The two bounds of a confidence interval, ``low <= high``."""

    low: float
    high: float


def mean_interval(values: np.ndarray, samples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Return the percentile bootstrap interval of the mean (Efron and Tibshirani, 1993, chapter 13).

    ``samples`` times as many values as there are are drawn with replacement, and their means' quantiles taken. It is a
    function of the arguments alone. It tells of the choice of queries, the network and the database held fixed; not of
    other seeds of the training.

    Args:
        values: (Q,) float, a value per query.
        samples: how many means are drawn, at least 1.
        seed: of the draws.
        confidence: share of the drawn means that lies inside, in (0, 1).

    Raises:
        ValueError: if there is no value, or an argument is outside its range.
    """
    if len(values) == 0:
        raise ValueError("there is no query to draw from")
    check_bootstrap(samples)
    if samples == 0:
        raise ValueError("samples=0: an interval takes at least 1 drawn mean")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: it lies between 0 and 1")
    generator = np.random.default_rng(seed)
    rows = max(BLOCK // len(values), 1)
    means = np.concatenate(
        [
            values[generator.integers(len(values), size=(min(rows, samples - start), len(values)))].mean(axis=1)
            for start in range(0, samples, rows)
        ]
    )
    return percentile_interval(means, confidence)


def percentile_interval(drawn: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return the quantiles between which the share `confidence` of drawn values (S,) lies, evenly cut off."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def check_bootstrap(samples: int) -> None:
    """Make sure that a number of drawn means is 0 (no interval) or more.

    Raises:
        ValueError: if it is not.
    """
    if samples < 0:
        raise ValueError(f"bootstrap={samples}: it is the number of drawn means, or 0 for no interval")
