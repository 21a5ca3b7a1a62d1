"""Re-ranking: the nearest items by Hamming distance, put in the order of the cosines of their features.

What a search with binary codes does in practice: codes find candidates, features that are kept beside them order
these. The candidates are those of ``retrieval.search.nearest_codes``: the first N, equal distances by position in the
database. The items behind them stay in the order of their distances.
"""

import numpy as np
from numba import njit, prange

from retrieval.average_precision import (
    DENOMINATOR_CODES,
    TIE_CODES,
    Denominator,
    Ties,
    check_choices,
    group_average_precision,
    harmonic_numbers,
)
from retrieval.counting import DistanceCounts, check_counting_inputs
from retrieval.kernels import write_relevant
from retrieval.relevance import flag_inputs, relevance
from retrieval.search import nearest_codes

MAX_CANDIDATES = 2**22


def reranked_average_precision(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    counts: DistanceCounts,
    query_features: np.ndarray,
    database_features: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    candidates: int,
    k: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "found",
) -> np.ndarray:
    """Compute the average precision of each query after its nearest items were re-ranked by cosine.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64.
        counts: what ``count_distances`` made of the same codes and labels.
        query_features: (Q, D) real.
        database_features: (N, D) real; a row of zeros has cosine 0 with every other.
        query_labels: (Q,) integers or (Q, C) multi-hot.
        database_labels: (N,) integers or (N, C) multi-hot.
        candidates: how many of the nearest items are re-ranked, at least 1; at most N are.
        k: how many of the first items count; None for all.
        ties: what equal cosines, and equal distances behind the candidates, count.
        denominator: ``found``, ``min(R,k)`` or ``R``.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if codes, features and labels do not go together, a feature is not finite, ``k`` or ``candidates``
            is below 1, or a choice is unknown.
    """
    check_choices(k, ties, denominator)
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: at least 1 item is re-ranked")
    check_counting_inputs(query_codes, database_codes, counts.bits, query_labels, database_labels)
    query_directions = unit_rows(query_features, len(query_codes), "query")
    directions = unit_rows(database_features, len(database_codes), "database")
    if query_directions.shape[1] != directions.shape[1]:
        raise ValueError(
            f"query features {query_features.shape} and database features {database_features.shape} are of one width"
        )
    size = len(database_codes)
    cut = size if k is None else min(k, size)
    candidates = min(candidates, size)
    # in the order of the database the ranks behind the candidates are known too, so these are fetched
    depth = max(candidates, cut) if ties == "stable" else candidates
    query_class, classes, query_masks, masks = flag_inputs(relevance(query_labels, database_labels))
    harmonic = harmonic_numbers(size)
    values = np.zeros(len(query_codes))
    rows = max(MAX_CANDIDATES // max(depth, 1), 1)
    for start in range(0, len(query_codes), rows):
        block = slice(start, start + rows)
        distances, positions = nearest_codes(query_codes[block], database_codes, counts.bits, depth)
        cosines = _cosines(query_directions[block], directions, positions[:, :candidates])
        hits = _hits(query_class[block], classes, query_masks[block], masks, positions)
        # a stable sort, so that equal cosines keep the order of the search
        order = np.argsort(-cosines, axis=1, kind="stable")
        values[block] = _after_reranking(
            np.take_along_axis(cosines, order, axis=1),
            order,
            hits,
            distances,
            counts.all[block],
            counts.relevant[block],
            cut,
            ties == "stable",
            TIE_CODES.get(ties, 0),
            DENOMINATOR_CODES[denominator],
            *harmonic,
        )
    return values


def unit_rows(features: np.ndarray, rows: int, part: str) -> np.ndarray:
    """Return features (N, D) divided by their Euclidean lengths, float64; a row of zeros stays one.

    Raises:
        ValueError: if there is not one row of features per code, or a value is NaN or infinite.
    """
    if features.ndim != 2 or len(features) != rows:
        raise ValueError(f"{part} features have shape {features.shape}: {rows} codes have features ({rows}, D)")
    precise = features.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(precise).all(axis=1))
    if len(bad):
        raise ValueError(f"features of {len(bad)} {part} samples are NaN or infinite, the first is row {bad[0]}")
    lengths = np.sqrt(np.square(precise).sum(axis=1, keepdims=True))
    return precise / np.where(lengths > 0, lengths, 1.0)


@njit(parallel=True, cache=True)
def _cosines(queries: np.ndarray, database: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the products of each query (Q, D) with its candidates (Q, N), always summed in the same order.

    Four sums side by side, so that one addition need not wait for the other; a matrix product would round according
    to the number of threads, and so to the number of ranks.
    """
    values = np.zeros(positions.shape)
    width = queries.shape[1]
    whole = width - width % 4
    for q in prange(len(queries)):
        query = queries[q]
        for c in range(positions.shape[1]):
            item = database[positions[q, c]]
            a, b, x, y = 0.0, 0.0, 0.0, 0.0
            for d in range(0, whole, 4):
                a += query[d] * item[d]
                b += query[d + 1] * item[d + 1]
                x += query[d + 2] * item[d + 2]
                y += query[d + 3] * item[d + 3]
            for d in range(whole, width):
                a += query[d] * item[d]
            values[q, c] = (a + b) + (x + y)
    return values


@njit(parallel=True, cache=True)
def _hits(
    query_classes: np.ndarray, classes: np.ndarray, query_masks: np.ndarray, masks: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Return which of the items at ``positions`` (Q, N) are relevant, int64 0 or 1."""
    hits = np.zeros(positions.shape, np.int64)
    for q in prange(len(positions)):
        flags = np.zeros(positions.shape[1], np.bool_)
        write_relevant(query_classes[q], classes[positions[q]], query_masks[q], masks[:, positions[q]], flags)
        hits[q] = flags
    return hits


@njit(parallel=True, cache=True)
def _after_reranking(
    cosines: np.ndarray,
    order: np.ndarray,
    hits: np.ndarray,
    distances: np.ndarray,
    every: np.ndarray,
    relevant: np.ndarray,
    k: int,
    in_order: bool,
    ties: int,
    denominator: int,
    high: np.ndarray,
    low: np.ndarray,
) -> np.ndarray:
    """Return the average precision of candidates by cosine, and behind them the rest by distance.

    ``cosines`` (Q, M) fall along a row and ``order`` (Q, M) says where each candidate was in the search, whose
    ``hits`` and ``distances`` are (Q, depth), depth >= M. With ``in_order`` every found item is a group of its own,
    else items of one cosine are a group.
    """
    values = np.zeros(len(hits))
    candidates = cosines.shape[1]
    depth, bins = hits.shape[1], every.shape[1]
    for q in prange(len(hits)):
        items = np.zeros(depth + bins, np.int64)
        found = np.zeros(depth + bins, np.int64)
        # what is left behind the found items, at each distance
        left, left_relevant = every[q].copy(), relevant[q].copy()
        group = -1
        for c in range(depth):
            if in_order or c >= candidates or c == 0 or cosines[q, c] != cosines[q, c - 1]:
                group += 1
            items[group] += 1
            found[group] += hits[q, order[q, c]] if c < candidates else hits[q, c]
            left[distances[q, c]] -= 1
            left_relevant[distances[q, c]] -= hits[q, c]
        items[group + 1 : group + 1 + bins] = left
        found[group + 1 : group + 1 + bins] = left_relevant
        values[q] = group_average_precision(items, found, k, ties, denominator, high, low)
    return values
