"""How well each class is recognised, from a table of counts: recalls, their means, groups of classes, intervals.

Everything here is a pure function of integers, so any order of samples and any number of ranks gives the same digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.bootstrap import Interval, percentile_interval

GROUPS = ("many", "medium", "few")
FLOOR = 1e-3


def count_confusions(label: NDArray[np.int64], prediction: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count the samples of each class (row) that were given each class (column), int64 (C, C).

    Args:
        label: (N,) in 0 .. C - 1.
        prediction: (N,) in 0 .. C - 1.
        num_classes: C.
    """
    cells = np.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_recalls(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each class's samples that were classified right, (C,); NaN for a class without samples."""
    samples = confusion.sum(axis=1)
    return np.divide(np.diagonal(confusion), samples, out=np.full(len(samples), np.nan), where=samples > 0)


def geometric_mean(recalls: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """Return exp(mean log max(r, floor)) over the last axis.

    Args:
        recalls: (..., C) in [0, 1], no NaN.
        floor: what a smaller recall counts as, in [0, 1); with 0 one dead class makes the mean 0.
    """
    with np.errstate(divide="ignore"):
        return np.exp(np.log(np.maximum(recalls, floor)).mean(axis=-1))


def harmonic_mean(recalls: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """Return C / sum(1 / max(r, floor)) over the last axis.

    Args:
        recalls: (..., C) in [0, 1], no NaN.
        floor: what a smaller recall counts as, in [0, 1); with 0 one dead class makes the mean 0.
    """
    with np.errstate(divide="ignore"):
        return recalls.shape[-1] / (1.0 / np.maximum(recalls, floor)).sum(axis=-1)


def shot_groups(
    class_counts: Sequence[int], many_above: int = 100, few_below: int = 20
) -> dict[str, NDArray[np.bool_]]:
    """Tell the classes apart by their training images: many (> 100), medium (20 .. 100), few (< 20).

    Source: Liu et al., "Large-scale long-tailed recognition in an open world", CVPR 2019.

    Args:
        class_counts: training images of each class, C of them.
        many_above: a class with more images belongs to many.
        few_below: a class with fewer images belongs to few.

    Returns:
        bool (C,) for each of `GROUPS`: a partition of the classes.
    """
    counts = np.asarray(class_counts)
    many, few = counts > many_above, counts < few_below
    return {"many": many, "medium": ~(many | few), "few": few}


def group_means(recalls: NDArray[np.float64], groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Return the mean recall of every group that has classes with samples; the others are absent, and never 0."""
    known = ~np.isnan(recalls)
    return {name: float(recalls[group & known].mean()) for name, group in groups.items() if (group & known).any()}


def recall_metrics(confusion: NDArray[np.int64], floor: float = FLOOR) -> dict[str, float]:
    """Compute what the counts alone say, over the classes that have samples.

    Source: Du and Wu, "No one left behind: improving the worst categories in long-tailed learning", CVPR 2023 (means
        of the recalls); the floor of 1e-3 is that of the authors' group.

    Args:
        confusion: (C, C) int64, at least one sample.
        floor: see `geometric_mean`; the lowest recall is never floored.

    Returns:
        `accuracy` over samples, `balanced_accuracy` (mean recall), `gm`, `hm`, `lowest_recall`, and the count
        `zero_recall_classes`.
    """
    recalls = class_recalls(confusion)
    known = recalls[~np.isnan(recalls)]
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(known.mean()),
        "gm": float(geometric_mean(known, floor)),
        "hm": float(harmonic_mean(known, floor)),
        "lowest_recall": float(known.min()),
        "zero_recall_classes": float((known == 0).sum()),
    }


def bootstrap_intervals(
    confusion: NDArray[np.int64], floor: float = FLOOR, replicates: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Compute 95 % intervals over the choice of the test samples, the network held fixed.

    Percentile bootstrap within classes: drawing the n samples of a class with recall r anew gives Binomial(n, r) hits,
    so no sample needs to be drawn.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 13.

    Args:
        confusion: (C, C) int64, at least one sample.
        floor: see `geometric_mean`.
        replicates: number of drawn test parts, at least 1.
        seed: the intervals are a function of it and the counts.

    Returns:
        (low, high) of `accuracy`, `hm` and `lowest_recall`.
    """
    samples = confusion.sum(axis=1)
    present = samples > 0
    samples, hits = samples[present], np.diagonal(confusion)[present]
    # the legacy generator's numbers are frozen for all releases of numpy
    drawn = np.random.RandomState(seed % 2**32).binomial(samples, hits / samples, size=(replicates, len(samples)))
    recalls = drawn / samples
    values = {
        "accuracy": drawn.sum(axis=1) / samples.sum(),
        "hm": harmonic_mean(recalls, floor),
        "lowest_recall": recalls.min(axis=1),
    }
    return {name: percentile_interval(value) for name, value in values.items()}
