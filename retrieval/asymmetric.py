"""Asymmetric search: a real-valued query against binary codes, ranked by their inner product.

The query keeps what its signs would lose, the database stays binary (Dong et al., "Asymmetric Distance Estimation
with Sketches for Similarity Search in High-Dimensional Spaces", SIGIR 2008; Gordo et al., TPAMI 2014).

Scores are sums of whole numbers: the query's values as multiples of 2^-45 of its largest. So they depend on no order
of summation, and items that tie do so exactly, on every machine.
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
from retrieval.codes import words_to_bytes
from retrieval.counting import check_counting_inputs
from retrieval.kernels import write_relevant
from retrieval.relevance import flag_inputs, relevance

FRACTION_BITS = 45
MAX_PAIRS = 2**23


def asymmetric_average_precision(
    query_values: np.ndarray,
    database_codes: np.ndarray,
    bits: int,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "found",
) -> np.ndarray:
    """Compute the average precision of each query, items ranked by `<h, b>` with b in {-1, +1}^K.

    Args:
        query_values: (Q, K) real and finite, the queries before the sign.
        database_codes: (N, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        bits: K, at most 32,766.
        query_labels: (Q,) integers or (Q, C) multi-hot.
        database_labels: (N,) integers or (N, C) multi-hot.
        k: how many of the first items count; None for all.
        ties: what equal scores count; ``stable`` is the order of the database.
        denominator: ``found``, ``min(R,k)`` or ``R``.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if values, codes, labels and ``bits`` do not go together, a value is not finite, ``k`` is below 1
            or a choice is unknown.
    """
    check_choices(k, ties, denominator)
    if query_values.ndim != 2 or query_values.shape[1] != bits:
        raise ValueError(f"query_values has shape {query_values.shape}: values of {bits} bits are (Q, {bits})")
    # the queries' codes stand in for their values, which are checked above
    no_codes = np.zeros((len(query_values), database_codes.shape[-1]), np.uint64)
    check_counting_inputs(no_codes, database_codes, bits, query_labels, database_labels)
    weights = fixed_point(query_values)
    columns = np.ascontiguousarray(words_to_bytes(database_codes).T[: -(-bits // 8)])
    query_class, classes, query_masks, masks = flag_inputs(relevance(query_labels, database_labels))
    size = len(database_codes)
    cut = size if k is None else min(k, size)
    rows = max(MAX_PAIRS // max(size, 1), 1)
    values = np.zeros(len(weights))
    for start in range(0, len(weights), rows):
        block = slice(start, start + rows)
        scores, flags = _score(weights[block], columns, query_class[block], classes, query_masks[block], masks)
        values[block] = scored_average_precision(scores, flags, cut, ties, denominator)
    return values


def fixed_point(values: np.ndarray) -> np.ndarray:
    """Return each row as whole multiples of 2^-45 of the power of two above its largest value.

    Values of float32 stay what they are down to 2^-21 of the row's largest; smaller ones lose their last digits.

    Args:
        values: (Q, K) real.

    Returns:
        (Q, K) int64, at most 2^45 in size.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    precise = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(precise).all(axis=1))
    if len(bad):
        raise ValueError(f"values of {len(bad)} rows are NaN or infinite, the first is row {bad[0]}")
    _, exponent = np.frexp(np.abs(precise).max(axis=1, initial=0.0))
    return np.rint(np.ldexp(precise, FRACTION_BITS - exponent[:, None])).astype(np.int64)


def scored_average_precision(
    scores: np.ndarray, flags: np.ndarray, k: int, ties: Ties, denominator: Denominator
) -> np.ndarray:
    """Compute the average precision of rankings by whole-numbered scores, the highest first.

    Args:
        scores: (Q, N) int64, below 2^62 in size.
        flags: (Q, N) bool, which items are relevant.
        k: how many of the first items count, at most N.
        ties: what equal scores count; ``stable`` is the order of the columns.
        denominator: ``found``, ``min(R,k)`` or ``R``.

    Returns:
        (Q,) float64 in [0, 1].
    """
    high, low = harmonic_numbers(scores.shape[1])
    if ties == "stable":
        order = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(flags, order, axis=1).astype(np.int64)
        return _of_rankings(hits, k, DENOMINATOR_CODES[denominator], high, low)
    # relevance rides along as the lowest bit, so that sorting plain numbers is enough
    keys = 2 * scores + flags
    keys.sort(axis=1)
    return _of_sorted_keys(keys, k, TIE_CODES[ties], DENOMINATOR_CODES[denominator], high, low)


@njit(parallel=True, cache=True)
def _score(
    weights: np.ndarray,
    columns: np.ndarray,
    query_classes: np.ndarray,
    classes: np.ndarray,
    query_masks: np.ndarray,
    masks: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of the weights at set bits, (Q, N) int64, and which items are relevant, (Q, N) bool.

    The sum S over set bits ranks as the inner product does, which is 2 S minus the sum of all weights.
    """
    scores = np.zeros((len(weights), columns.shape[1]), np.int64)
    flags = np.zeros(scores.shape, np.bool_)
    for q in prange(len(weights)):
        sums = _byte_sums(weights[q])
        for byte in range(len(columns)):
            column = columns[byte]
            table = sums[byte]
            for i in range(len(column)):
                scores[q, i] += table[column[i]]
        write_relevant(query_classes[q], classes, query_masks[q], masks, flags[q])
    return scores, flags


@njit(cache=True)
def _byte_sums(weights: np.ndarray) -> np.ndarray:
    """Return for each byte of a code and each value of it the sum of the weights at its set bits, (B, 256)."""
    sums = np.zeros((-(-len(weights) // 8), 256), np.int64)
    for bit in range(len(weights)):
        byte = bit // 8
        place = 1 << (bit % 8)
        for value in range(place, 2 * place):
            sums[byte, value] = sums[byte, value - place] + weights[bit]
    for byte in range(len(sums)):
        known = min(8, len(weights) - 8 * byte)
        for value in range(1 << known, 256):
            sums[byte, value] = sums[byte, value & ((1 << known) - 1)]
    return sums


@njit(parallel=True, cache=True)
def _of_rankings(hits: np.ndarray, k: int, denominator: int, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    values = np.zeros(len(hits))
    ones = np.ones(hits.shape[1], np.int64)
    for q in prange(len(hits)):
        values[q] = group_average_precision(ones, hits[q], k, 0, denominator, high, low)
    return values


@njit(parallel=True, cache=True)
def _of_sorted_keys(
    keys: np.ndarray, k: int, ties: int, denominator: int, high: np.ndarray, low: np.ndarray
) -> np.ndarray:
    values = np.zeros(len(keys))
    size = keys.shape[1]
    for q in prange(len(keys)):
        every = np.zeros(size, np.int64)
        relevant = np.zeros(size, np.int64)
        group = -1
        for i in range(size - 1, -1, -1):
            if i == size - 1 or keys[q, i] >> 1 != keys[q, i + 1] >> 1:
                group += 1
            every[group] += 1
            relevant[group] += keys[q, i] & 1
        values[q] = group_average_precision(every[: group + 1], relevant[: group + 1], k, ties, denominator, high, low)
    return values
