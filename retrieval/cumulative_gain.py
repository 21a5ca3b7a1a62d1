"""Normalised discounted cumulative gain of rankings by Hamming distance, exact under ties.

Relevance is graded: the number of labels that item and query share. The gain of an item tied with others is the mean
gain of the tie (McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores", ECIR 2008), which is the mean over all orders of the tie, also where the cut falls inside it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numba import njit, prange

from retrieval.counting import DistanceCounts, check_counting_inputs
from retrieval.kernels import BLOCK, write_distances, write_shared_labels
from retrieval.relevance import ClassRelevance, relevance

Gain = Literal["exponential", "linear"]


@dataclass(frozen=True)
class GradedCounts:
    """Gains and grades of the database from the point of view of each query.

    Attributes:
        gains: (Q, K + 1) float64, the gains of all items at each distance, summed.
        grades: (Q, G + 1) int64, how many items share 0 .. G labels with the query.
        gain: (G + 1,) float64, what an item of each grade is worth.
    """

    gains: np.ndarray
    grades: np.ndarray
    gain: np.ndarray


def grade_gains(num_grades: int, gain: Gain) -> np.ndarray:
    """Return the gain of the grades 0 .. num_grades - 1, (G,) float64.

    ``exponential`` is 2^g - 1 (Zhao et al., "Deep Semantic Ranking Based Hashing for Multi-Label Image Retrieval",
    CVPR 2015), ``linear`` is g (Järvelin and Kekäläinen, TOIS 2002).

    Raises:
        ValueError: if the choice is unknown.
    """
    check_gain(gain)
    grades = np.arange(num_grades, dtype=np.float64)
    return np.exp2(grades) - 1 if gain == "exponential" else grades


def count_gains(
    counts: DistanceCounts,
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    gain: Gain = "exponential",
) -> GradedCounts:
    """Sum gains at each Hamming distance, and count the grades.

    Of single labels the counts of relevant items say it all; multi-hot labels take a pass over all pairs.

    Args:
        counts: what ``count_distances`` made of the same codes and labels.
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64.
        query_labels: (Q,) integers or (Q, C) multi-hot.
        database_labels: (N,) integers or (N, C) multi-hot.
        gain: ``exponential`` or ``linear``.

    Raises:
        ValueError: if codes and labels do not go together, or the choice is unknown.
    """
    check_counting_inputs(query_codes, database_codes, counts.bits, query_labels, database_labels)
    labels = relevance(query_labels, database_labels)
    if isinstance(labels, ClassRelevance):
        relevant = counts.num_relevant
        grades = np.stack([counts.all.sum(axis=1) - relevant, relevant], axis=1)
        return GradedCounts(counts.relevant.astype(np.float64), grades, grade_gains(2, gain))
    shared = _most_shared(labels.query, labels.database, query_labels, database_labels)
    worth = grade_gains(shared + 1, gain)
    gains, grades = _sum_gains(
        np.ascontiguousarray(query_codes),
        np.ascontiguousarray(database_codes.T),
        labels.query,
        np.ascontiguousarray(labels.database.T),
        counts.bits + 1,
        worth,
    )
    return GradedCounts(gains, grades, worth)


def normalized_gain_at(counts: DistanceCounts, graded: GradedCounts, k: int | None = None) -> np.ndarray:
    """Return the discounted cumulative gain of the first k ranks divided by that of the best order (NDCG@k).

    Rank r is discounted by 1 / log2(r + 1).

    Args:
        counts: items at each distance.
        graded: gains and grades of the same queries.
        k: how many of the first items count; None for all.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query that shares no label with any item.

    Raises:
        ValueError: if ``k`` is below 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"k={k}: a ranking is cut after at least 1 item")
    size = counts.database_size
    cut = size if k is None else min(k, size)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, cut + 2)))])
    found = _discounted(counts.all, graded.gains / np.maximum(counts.all, 1), discounts)
    best = _discounted(graded.grades[:, ::-1], np.broadcast_to(graded.gain[::-1], graded.grades.shape), discounts)
    return np.divide(found, best, out=np.zeros(len(found)), where=best > 0)


def check_gain(gain: str) -> None:
    """Make sure that the choice exists.

    Raises:
        ValueError: if it does not.
    """
    if gain not in get_args(Gain):
        raise ValueError(f"gain={gain!r}: choices are {', '.join(get_args(Gain))}")


def _discounted(items: np.ndarray, mean_gain: np.ndarray, discounts: np.ndarray) -> np.ndarray:
    """Return the discounted gain (Q,) of groups of ``items`` (Q, G), best first, each item worth its group's mean."""
    ends = np.minimum(np.cumsum(items, axis=1), len(discounts) - 1)
    begins = np.concatenate([np.zeros((len(items), 1), np.int64), ends[:, :-1]], axis=1)
    return (mean_gain * (discounts[ends] - discounts[begins])).sum(axis=1)


def _most_shared(
    queries: np.ndarray, database: np.ndarray, query_labels: np.ndarray, database_labels: np.ndarray
) -> int:
    """Return a bound on the labels that a pair shares: the most that one sample has, in the part that has fewer."""
    return min(int((part > 0).sum(axis=1).max(initial=0)) for part in (query_labels, database_labels))


@njit(parallel=True, cache=True)
def _sum_gains(
    queries: np.ndarray,
    columns: np.ndarray,
    query_masks: np.ndarray,
    label_columns: np.ndarray,
    bins: int,
    worth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    gains = np.zeros((len(queries), bins))
    grades = np.zeros((len(queries), len(worth)), np.int64)
    size = columns.shape[1]
    for q in prange(len(queries)):
        at_distance = np.zeros((bins, len(worth)), np.int32)
        for start in range(0, size, BLOCK):
            length = min(BLOCK, size - start)
            distances = np.empty(length, np.uint16)
            shared = np.empty(length, np.uint16)
            write_distances(queries[q], columns, start, distances)
            write_shared_labels(query_masks[q], label_columns, start, shared)
            for i in range(length):
                at_distance[distances[i], shared[i]] += 1
        for distance in range(bins):
            for grade in range(len(worth)):
                gains[q, distance] += at_distance[distance, grade] * worth[grade]
                grades[q, grade] += at_distance[distance, grade]
    return gains, grades
