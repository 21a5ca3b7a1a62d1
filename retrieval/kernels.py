"""Compiled loops over packed codes, one query at a time.

Codes and label masks come in columns, (W, N): one word of all items lies together, so the compiler can turn
the loop over items into vector instructions. Distances of a block of items go through a small buffer that
stays in the cache.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 2048
LANES = 4


def _popcount(typing_context: Any, word: Any) -> Any:
    """Count the set bits of a uint64 with the processor's own instruction where it has one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@njit(cache=True)
def write_distances(query: np.ndarray, columns: np.ndarray, begin: int, keys: np.ndarray) -> None:
    """Write the Hamming distances of the items ``begin, begin + 1, ...`` to one query.

    Args:
        query: (W,) uint64.
        columns: (W, N) uint64.
        begin: position of the first item.
        keys: (M,) uint16, written.
    """
    first = columns[0]
    word = query[0]
    for i in range(len(keys)):
        keys[i] = np.uint16(popcount(word ^ first[begin + i]))
    for w in range(1, len(query)):
        column = columns[w]
        word = query[w]
        for i in range(len(keys)):
            keys[i] += np.uint16(popcount(word ^ column[begin + i]))


@njit(cache=True)
def add_where_labels_meet(
    query: np.ndarray, columns: np.ndarray, begin: int, step: int, keys: np.ndarray, common: np.ndarray
) -> None:
    """Add ``step`` to the keys of items that share a label with one query.

    Args:
        query: (L,) uint64 label mask.
        columns: (L, N) uint64 label masks.
        begin: position of the first item.
        step: what is added.
        keys: (M,) uint16, changed.
        common: (M,) uint64, scratch.
    """
    common[: len(keys)] = np.uint64(0)
    for w in range(len(query)):
        column = columns[w]
        word = query[w]
        for i in range(len(keys)):
            common[i] |= word & column[begin + i]
    for i in range(len(keys)):
        keys[i] += np.uint16(step if common[i] != np.uint64(0) else 0)


@njit(cache=True)
def write_shared_labels(query: np.ndarray, columns: np.ndarray, begin: int, shared: np.ndarray) -> None:
    """Write how many labels the items ``begin, begin + 1, ...`` share with one query.

    Args:
        query: (L,) uint64 label mask.
        columns: (L, N) uint64 label masks.
        begin: position of the first item.
        shared: (M,) uint16, written.
    """
    shared[:] = np.uint16(0)
    for w in range(len(query)):
        column = columns[w]
        word = query[w]
        for i in range(len(shared)):
            shared[i] += np.uint16(popcount(word & column[begin + i]))


@njit(cache=True)
def tally(keys: np.ndarray, lanes: np.ndarray) -> None:
    """Count keys into interleaved histograms, so that equal neighbours need not wait for each other.

    Args:
        keys: (M,) uint16, each below the number of bins.
        lanes: (4, bins) int32, added to.
    """
    whole = len(keys) - len(keys) % LANES
    for i in range(0, whole, LANES):
        lanes[0, keys[i]] += 1
        lanes[1, keys[i + 1]] += 1
        lanes[2, keys[i + 2]] += 1
        lanes[3, keys[i + 3]] += 1
    for i in range(whole, len(keys)):
        lanes[0, keys[i]] += 1


@njit(cache=True)
def write_relevant(
    query_class: int, classes: np.ndarray, query_mask: np.ndarray, masks: np.ndarray, flags: np.ndarray
) -> None:
    """Set the flags, false so far, of relevant items: by label masks if there are any, else by class.

    Args:
        query_class: the query's class among the database's, -1 if the database lacks it.
        classes: (N,) int64.
        query_mask: (L,) uint64; L = 0 if labels are classes.
        masks: (L, N) uint64.
        flags: (N,) bool, written.
    """
    if len(query_mask) == 0:
        for i in range(len(flags)):
            flags[i] = classes[i] == query_class
        return
    for w in range(len(query_mask)):
        for i in range(len(flags)):
            flags[i] |= (masks[w, i] & query_mask[w]) != np.uint64(0)
