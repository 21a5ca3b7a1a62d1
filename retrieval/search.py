"""Nearest codes by Hamming distance."""

from typing import Any

import faiss
import numpy as np

from retrieval.codes import check_codes, words_to_bytes

MAX_BUCKET_SLOTS = 2**24


def nearest(query_codes: np.ndarray, database_codes: np.ndarray, bits: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest database codes of each query; equal distances by position in the database.

    An exhaustive search with faiss. Its counting search keeps, at each distance, the first codes in the order
    of the database, which makes the answer a function of the codes alone; its default, a heap, does not.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64.
        bits: K, any length: zero padding adds nothing to a distance.
        k: from 1 to N.

    Returns:
        distances (Q, k) int64, never falling along a row, and positions (Q, k) int64.

    Raises:
        ValueError: if the codes are not packed codes of K bits, or k is not in 1 .. N.
    """
    check_codes(query_codes, bits, "query_codes")
    check_codes(database_codes, bits, "database_codes")
    if not 1 <= k <= len(database_codes):
        raise ValueError(f"k={k}: the database holds {len(database_codes)} codes, choose k from 1 to that")
    if len(query_codes) == 0:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.int64)
    padded_bits = 64 * database_codes.shape[1]
    index: Any = faiss.IndexBinaryFlat(padded_bits)
    index.use_heap = False
    # the counting search keeps k places per distance and query in flight
    index.query_batch_size = int(np.clip(MAX_BUCKET_SLOTS // (k * (padded_bits + 1)), 1, index.query_batch_size))
    index.add(words_to_bytes(database_codes))
    distances, positions = index.search(words_to_bytes(query_codes), k)
    return distances.astype(np.int64), positions
