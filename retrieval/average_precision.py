"""Average precision of rankings by Hamming distance, exact under ties.

Codes tie often, and the order a sort happens to give to ties moves mean average precision by several points.
Here the order inside a tie is a stated choice (``ties``):

``expected``     the mean over all orders of equal distances, exactly; also where the cut k falls inside a
                 tie. Depends on no order (McSherry and Najork, ECIR 2008; He et al., CVPR 2018, arXiv
                 1705.08562).
``optimistic``   relevant items first inside each tie.
``pessimistic``  relevant items last inside each tie.
``stable``       the order in which the database is stored; see ``stable_average_precision``.

What the sum of precisions at the relevant items within the first k is divided by is a choice too
(``denominator``), with R the relevant items in the whole database:

``found``     the relevant items within the first k, as the field's evaluation code does.
``min(R,k)``  the most that could have been found.
``R``         all of them.

Without a cut the three agree. A query that finds nothing scores 0.
"""

from typing import Literal, get_args

import numpy as np
from numba import njit, prange

from retrieval.counting import DistanceCounts, check_counting_inputs
from retrieval.kernels import BLOCK, write_distances, write_relevant
from retrieval.relevance import flag_inputs, relevance

Ties = Literal["expected", "optimistic", "pessimistic", "stable"]
Denominator = Literal["found", "min(R,k)", "R"]

_EXPECTED, _OPTIMISTIC, _PESSIMISTIC = 0, 1, 2
_FOUND, _REACHABLE, _RELEVANT = 0, 1, 2
TIE_CODES = {"expected": _EXPECTED, "optimistic": _OPTIMISTIC, "pessimistic": _PESSIMISTIC}
DENOMINATOR_CODES = {"found": _FOUND, "min(R,k)": _REACHABLE, "R": _RELEVANT}
_NEGLIGIBLE = 1e-20


def average_precision(
    counts: DistanceCounts, k: int | None = None, ties: Ties = "expected", denominator: Denominator = "found"
) -> np.ndarray:
    """Compute the average precision of each query from its counts.

    With ``found`` and a cut inside a tie, ``expected`` averages the quotient over all orders (the number
    found is random too), while ``optimistic`` and ``pessimistic`` are the values of that one order, relevant
    items first or last; with this denominator they need not bound the values of all orders, with the others
    they do.

    Args:
        counts: items and relevant items at each distance.
        k: how many of the nearest items count; None for all. Above the database size it is the database size.
        ties: ``expected``, ``optimistic`` or ``pessimistic``; ``stable`` needs the codes, not the counts.
        denominator: ``found``, ``min(R,k)`` or ``R``.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if ``k`` is below 1 or a choice is unknown.
    """
    check_choices(k, ties, denominator)
    if ties == "stable":
        raise ValueError(
            "ties='stable' depends on the storage order, which counts do not know: call "
            "stable_average_precision with the codes, or choose expected, optimistic or pessimistic"
        )
    size = counts.database_size
    high, low = harmonic_numbers(size)
    cut = size if k is None else min(k, size)
    return _from_counts(counts.all, counts.relevant, cut, TIE_CODES[ties], DENOMINATOR_CODES[denominator], high, low)


def stable_average_precision(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    bits: int,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = None,
    denominator: Denominator = "found",
) -> np.ndarray:
    """Compute the average precision of each query with ties in storage order, as a stable sort would give it.

    A counting sort: the first pass over the database finds where each distance begins in the ranking, the
    second walks through the database in order and knows the rank of every item without storing one. The value
    depends on the order of the database, so it serves to compare with other programs; report ``expected``.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64, in storage order.
        bits: K.
        query_labels: (Q,) integers or (Q, C) multi-hot.
        database_labels: (N,) integers or (N, C) multi-hot.
        k: how many of the nearest items count; None for all.
        denominator: ``found``, ``min(R,k)`` or ``R``.

    Returns:
        (Q,) float64 in [0, 1]; 0 for a query without relevant items.

    Raises:
        ValueError: if codes, labels and ``bits`` do not go together, ``k`` is below 1 or a choice is unknown.
    """
    check_choices(k, "stable", denominator)
    check_counting_inputs(query_codes, database_codes, bits, query_labels, database_labels)
    labels = relevance(query_labels, database_labels)
    size = len(database_codes)
    return _stable(
        np.ascontiguousarray(query_codes),
        np.ascontiguousarray(database_codes.T),
        bits + 1,
        *flag_inputs(labels),
        size if k is None else min(k, size),
        DENOMINATOR_CODES[denominator],
    )


def check_choices(k: int | None, ties: str, denominator: str) -> None:
    """Make sure that a cut and the choices for ties and denominator exist.

    Raises:
        ValueError: if ``k`` is below 1 or a choice is unknown.
    """
    if k is not None and k < 1:
        raise ValueError(f"k={k}: a ranking is cut after at least 1 item; None (or 'all' in a metric) keeps it whole")
    for name, value, choices in (("ties", ties, Ties), ("denominator", denominator, Denominator)):
        if value not in get_args(choices):
            raise ValueError(f"{name}={value!r}: choices are {', '.join(get_args(choices))}")


@njit(cache=True)
def harmonic_numbers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 + 1/2 + ... + 1/n for n = 0 .. size as unevaluated sums of two float64.

    A difference of two harmonic numbers is small against both; the second term keeps its last digits
    (two-sum, Knuth).

    Args:
        size: the largest n.

    Returns:
        high and low, each (size + 1,) float64.
    """
    high = np.zeros(size + 1)
    low = np.zeros(size + 1)
    for n in range(1, size + 1):
        term = 1.0 / n
        total = high[n - 1] + term
        shadow = total - high[n - 1]
        lost = (high[n - 1] - (total - shadow)) + (term - shadow)
        high[n] = total
        low[n] = low[n - 1] + lost
    return high, low


@njit(cache=True)
def _sum_of_reciprocals(begin: int, end: int, high: np.ndarray, low: np.ndarray) -> float:
    """Return 1/(begin + 1) + ... + 1/end."""
    return (high[end] - high[begin]) + (low[end] - low[begin])


@njit(cache=True)
def _shuffled_sum(
    before: int, hits: int, slots: int, mean_hits: float, mean_pairs: float, high: np.ndarray, low: np.ndarray
) -> float:
    """Return the expected sum of precisions over ``slots`` ranks in random order.

    They follow ``before`` items of which ``hits`` are relevant. Rank before + j holds a relevant item with
    probability E[x]/slots, and given that, each of the j - 1 slots ahead of it holds one with probability
    E[x(x-1)]/(E[x](slots-1)), where x is the number of relevant items in the slots: sum over j of (E[x]/slots
    (hits + 1) + (j - 1) E[x(x-1)]/(slots (slots-1))) / (before + j).
    """
    reciprocals = _sum_of_reciprocals(before, before + slots, high, low)
    total = mean_hits / slots * (hits + 1) * reciprocals
    if slots > 1:
        total += mean_pairs / (slots * (slots - 1.0)) * (slots - (before + 1) * reciprocals)
    return total


@njit(cache=True)
def _run_sum(before: int, hits: int, found: int, high: np.ndarray, low: np.ndarray) -> float:
    """Return the sum of precisions of ``found`` relevant items in a row after ``before`` with ``hits``."""
    return found + (hits - before) * _sum_of_reciprocals(before, before + found, high, low)


@njit(cache=True)
def _tie_sum(
    ties: int,
    before: int,
    hits: int,
    items: int,
    relevant: int,
    slots: int,
    high: np.ndarray,
    low: np.ndarray,
) -> tuple[float, float]:
    """Return the sum of precisions of the ``slots`` items of a tie that count, and how many are relevant."""
    if ties == _EXPECTED:
        mean_hits = slots * (relevant / items)
        mean_pairs = 0.0
        if items > 1:
            mean_pairs = slots * (slots - 1.0) * (relevant / items) * ((relevant - 1.0) / (items - 1.0))
        return _shuffled_sum(before, hits, slots, mean_hits, mean_pairs, high, low), mean_hits
    if ties == _OPTIMISTIC:
        found = min(relevant, slots)
        return _run_sum(before, hits, found, high, low), float(found)
    others = items - relevant
    found = max(0, slots - others)
    return _run_sum(before + others, hits, found, high, low), float(found)


@njit(cache=True)
def _found_in_cut_tie(
    total: float,
    before: int,
    hits: int,
    items: int,
    relevant: int,
    slots: int,
    high: np.ndarray,
    low: np.ndarray,
) -> float:
    """Return the expected quotient of sum of precisions and items found, with a cut inside a tie.

    The cut leaves ``slots`` of the tie's items. The number x of relevant items in the slots is
    hypergeometric. Its weights are walked outward from the mode by their ratios, until they no longer count:
    about the square root of ``slots`` terms, and no factorial.
    """
    lowest = max(0, slots - (items - relevant))
    highest = min(relevant, slots)
    mode = min(max((slots + 1) * (relevant + 1) // (items + 2), lowest), highest)
    weights = 0.0
    value = 0.0
    for direction in (1, -1):
        x = mode
        weight = 1.0
        while True:
            if direction == 1 or x != mode:
                weights += weight
                if hits + x > 0:
                    found = total + _shuffled_sum(before, hits, slots, x, x * (x - 1.0), high, low)
                    value += weight * found / (hits + x)
            if direction == 1:
                ratio = (relevant - x) * float(slots - x) / ((x + 1.0) * (items - relevant - slots + x + 1.0))
            else:
                ratio = x * (items - relevant - slots + float(x)) / ((relevant - x + 1.0) * (slots - x + 1.0))
            x += direction
            weight *= ratio
            if x < lowest or x > highest or weight < _NEGLIGIBLE:
                break
    return value / weights


@njit(cache=True)
def _divide(total: float, found: float, relevant: int, k: int, denominator: int) -> float:
    divisor = found
    if denominator == _REACHABLE:
        divisor = min(relevant, k)
    elif denominator == _RELEVANT:
        divisor = relevant
    return total / divisor if divisor > 0 else 0.0


@njit(cache=True)
def group_average_precision(
    every: np.ndarray,
    relevant: np.ndarray,
    k: int,
    ties: int,
    denominator: int,
    high: np.ndarray,
    low: np.ndarray,
) -> float:
    """Return the average precision of one ranking that comes as groups of tied items, best group first.

    Args:
        every: (G,) int64, items in each group.
        relevant: (G,) int64, relevant items in each group.
        k: how many of the first items count, at most the sum of ``every``.
        ties: a value of ``TIE_CODES``.
        denominator: a value of ``DENOMINATOR_CODES``.
        high: what ``harmonic_numbers`` gave, at least as long as all items.
        low: its second part.
    """
    before = 0
    hits = 0
    found = 0.0
    total = 0.0
    for distance in range(len(every)):
        items = every[distance]
        slots = min(items, k - before)
        if slots == 0:
            continue
        if ties == _EXPECTED and denominator == _FOUND and slots < items:
            return _found_in_cut_tie(total, before, hits, items, relevant[distance], slots, high, low)
        part, part_found = _tie_sum(ties, before, hits, items, relevant[distance], slots, high, low)
        total += part
        found += part_found
        before += slots
        hits += relevant[distance]
    return _divide(total, found, relevant.sum(), k, denominator)


@njit(parallel=True, cache=True)
def _from_counts(
    every: np.ndarray,
    relevant: np.ndarray,
    k: int,
    ties: int,
    denominator: int,
    high: np.ndarray,
    low: np.ndarray,
) -> np.ndarray:
    values = np.zeros(len(every))
    for q in prange(len(every)):
        values[q] = group_average_precision(every[q], relevant[q], k, ties, denominator, high, low)
    return values


@njit(cache=True)
def _walk_in_order(keys: np.ndarray, flags: np.ndarray, bins: int, k: int) -> tuple[float, int]:
    """Return sum of precisions and number of relevant items in the first k ranks, ties in storage order."""
    ranks = np.zeros(bins, np.int64)
    hits = np.zeros(bins, np.int64)
    for i in range(len(keys)):
        ranks[keys[i]] += 1
        hits[keys[i]] += flags[i]
    _count_before(ranks)
    _count_before(hits)
    total = 0.0
    found = 0
    for i in range(len(keys)):
        distance = keys[i]
        ranks[distance] += 1
        if flags[i]:
            hits[distance] += 1
            if ranks[distance] <= k:
                found += 1
                total += hits[distance] / ranks[distance]
    return total, found


@njit(cache=True)
def _count_before(counts: np.ndarray) -> None:
    """Replace each count by the sum of those before it."""
    before = 0
    for i in range(len(counts)):
        count = counts[i]
        counts[i] = before
        before += count


@njit(cache=True)
def _stablegroup_average_precision(
    query: np.ndarray,
    columns: np.ndarray,
    bins: int,
    query_class: int,
    classes: np.ndarray,
    query_mask: np.ndarray,
    masks: np.ndarray,
    k: int,
    denominator: int,
) -> float:
    size = columns.shape[1]
    keys = np.empty(size, np.uint16)
    flags = np.zeros(size, np.bool_)
    for start in range(0, size, BLOCK):
        write_distances(query, columns, start, keys[start : min(start + BLOCK, size)])
    write_relevant(query_class, classes, query_mask, masks, flags)
    relevant = 0
    for i in range(size):
        relevant += flags[i]
    total, found = _walk_in_order(keys, flags, bins, k)
    return _divide(total, found, relevant, k, denominator)


@njit(parallel=True, cache=True)
def _stable(
    queries: np.ndarray,
    columns: np.ndarray,
    bins: int,
    query_classes: np.ndarray,
    classes: np.ndarray,
    query_masks: np.ndarray,
    masks: np.ndarray,
    k: int,
    denominator: int,
) -> np.ndarray:
    values = np.zeros(len(queries))
    for q in prange(len(queries)):
        values[q] = _stablegroup_average_precision(
            queries[q], columns, bins, query_classes[q], classes, query_masks[q], masks, k, denominator
        )
    return values
