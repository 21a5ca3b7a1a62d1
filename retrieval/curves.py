"""Precision and recall at a rank, within a Hamming radius, and along all radii."""

from dataclasses import dataclass

import numpy as np

from retrieval.averaging import EmptyQueries, kept_queries
from retrieval.counting import DistanceCounts


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision and recall within every Hamming radius, averaged over queries.

    A ball without any item has precision 0, as the field counts it, so the curve may begin low;
    ``empty_balls`` tells for how many queries.

    Attributes:
        radius: (K + 1,) int64, 0 .. K.
        precision: (K + 1,) float64 in [0, 1].
        recall: (K + 1,) float64 in [0, 1], never falling.
        empty_balls: (K + 1,) int64, queries without any item within the radius.
    """

    radius: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    empty_balls: np.ndarray


def expected_hits(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return how many relevant items the first k ranks hold, in the mean over all orders of ties.

    Args:
        counts: items and relevant items at each distance.
        k: at least 1; above the database size it is the database size.

    Returns:
        (Q,) float64.

    Raises:
        ValueError: if ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: a ranking is cut after at least 1 item")
    before = np.cumsum(counts.all, axis=1) - counts.all
    slots = np.clip(k - before, 0, counts.all)
    return (counts.relevant * (slots / np.maximum(counts.all, 1))).sum(axis=1)


def precision_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the share of relevant items among the first k, in the mean over all orders of ties.

    Args:
        counts: items and relevant items at each distance.
        k: at least 1; of a database with fewer than k items, the share among all its items.

    Returns:
        (Q,) float64 in [0, 1].

    Raises:
        ValueError: if ``k`` is below 1 or the database is empty.
    """
    if counts.num_queries and counts.database_size == 0:
        raise ValueError("the database is empty")
    return expected_hits(counts, k) / max(min(k, counts.database_size), 1)


def recall_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the share of a query's relevant items among the first k, in the mean over all orders of ties.

    Args:
        counts: items and relevant items at each distance.
        k: at least 1.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if ``k`` is below 1.
    """
    return expected_hits(counts, k) / np.maximum(counts.num_relevant, 1)


def precision_within(counts: DistanceCounts, radius: int) -> np.ndarray:
    """Return the share of relevant items among those within a Hamming radius.

    Args:
        counts: items and relevant items at each distance.
        radius: from 0 to K; items at exactly this distance belong to the ball.

    Returns:
        (Q,) float64 in [0, 1]; 0 for an empty ball, as the field counts it (``empty_balls`` tells how many
        there are).

    Raises:
        ValueError: if the radius is not in 0 .. K.
    """
    items, hits = _ball(counts, radius)
    return hits / np.maximum(items, 1)


def recall_within(counts: DistanceCounts, radius: int) -> np.ndarray:
    """Return the share of a query's relevant items that lie within a Hamming radius.

    Args:
        counts: items and relevant items at each distance.
        radius: from 0 to K.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if the radius is not in 0 .. K.
    """
    _, hits = _ball(counts, radius)
    return hits / np.maximum(counts.num_relevant, 1)


def empty_balls(counts: DistanceCounts, radius: int) -> int:
    """Return the number of queries without any item within a Hamming radius.

    Raises:
        ValueError: if the radius is not in 0 .. K.
    """
    items, _ = _ball(counts, radius)
    return int((items == 0).sum())


def precision_recall_curve(counts: DistanceCounts, empty_queries: EmptyQueries = "zero") -> PrecisionRecallCurve:
    """Compute mean precision and recall within every radius from 0 to K.

    Args:
        counts: items and relevant items at each distance.
        empty_queries: what a query without relevant items counts as; see ``kept_queries``.

    Raises:
        ValueError: if no query is left to average over.
    """
    items = np.cumsum(counts.all, axis=1)
    hits = np.cumsum(counts.relevant, axis=1)
    kept = kept_queries(counts, empty_queries)
    return PrecisionRecallCurve(
        radius=np.arange(counts.bits + 1),
        precision=(hits / np.maximum(items, 1))[kept].mean(axis=0),
        recall=(hits / np.maximum(counts.num_relevant, 1)[:, None])[kept].mean(axis=0),
        empty_balls=(items == 0).sum(axis=0),
    )


def check_radius(radius: int, bits: int) -> None:
    """Make sure that a ball of this radius exists for codes of ``bits`` bits.

    Raises:
        ValueError: if the radius is not in 0 .. bits.
    """
    if not 0 <= radius <= bits:
        raise ValueError(f"radius={radius}: distances of {bits}-bit codes lie in 0 .. {bits}")


def _ball(counts: DistanceCounts, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items and relevant items within a radius, each (Q,) int64."""
    check_radius(radius, counts.bits)
    return counts.all[:, : radius + 1].sum(axis=1), counts.relevant[:, : radius + 1].sum(axis=1)
