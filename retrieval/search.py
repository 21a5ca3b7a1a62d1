"""Nearest codes by Hamming distance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from retrieval.codes import check_codes, words_to_bytes

MAX_BUCKET_SLOTS = 2**24


def nearest_codes(
    query_codes: np.ndarray, database_codes: np.ndarray, bits: int, k: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest database codes of each query; equal distances by position in the database.

    An exhaustive search with faiss. Its counting search keeps, at each distance, the first codes in the order
    of the database, which makes the answer a function of the codes alone; its default, a heap, does not.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64.
        bits: K, any length: zero padding adds nothing to a distance.
        k: from 1 to N.
        threads: of the search; None for as many as there are queries, and at most OpenMP's own number. Threads
            that have no query spin, which on a busy machine makes a single search many times slower.

    Returns:
        distances (Q, k) int64, never falling along a row, and positions (Q, k) int64.

    Raises:
        ValueError: if the codes are not packed codes of K bits, k is not in 1 .. N, or threads is below 1.
    """
    check_codes(query_codes, bits, "query_codes")
    check_codes(database_codes, bits, "database_codes")
    if not 1 <= k <= len(database_codes):
        raise ValueError(f"k={k}: the database holds {len(database_codes)} codes, choose k from 1 to that")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: a search takes at least 1")
    if len(query_codes) == 0:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.int64)
    index: Any = faiss.IndexBinaryFlat(64 * database_codes.shape[1])
    index.add(words_to_bytes(database_codes))
    return search_flat(index, query_codes, k, threads)


def search_flat(
    index: Any, query_codes: np.ndarray, k: int, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Search an exhaustive faiss index as `nearest_codes` does.

    Args:
        index: a faiss.IndexBinaryFlat of N codes.
        query_codes: (Q, W) uint64, one query at least, as wide as the index.
        k: from 1 to N.
        threads: see `nearest_codes`.

    Returns:
        distances (Q, k) int64, never falling along a row, and positions (Q, k) int64.
    """
    index.use_heap = False
    # the counting search keeps k places per distance and query in flight
    index.query_batch_size = int(np.clip(MAX_BUCKET_SLOTS // (k * (index.d + 1)), 1, index.query_batch_size))
    with faiss_threads(min(threads or faiss.omp_get_max_threads(), len(query_codes))):
        distances, positions = index.search(words_to_bytes(query_codes), k)
    return distances.astype(np.int64), positions


@contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Let faiss compute with so many threads inside the block."""
    # the number belongs to the process, and other libraries on the same OpenMP would go on with it
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
