"""How many items, and how many relevant ones, lie at each Hamming distance from each query.

Every metric of a ranking by Hamming distance that does not depend on the order of ties is a function of these
counts. They take (Q, K + 1) numbers where sorted rankings take (Q, N), and one pass over the codes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, prange

from retrieval.codes import check_codes
from retrieval.device_counting import count_on_device
from retrieval.kernels import BLOCK, LANES, add_where_labels_meet, tally, write_distances
from retrieval.relevance import ClassRelevance, MaskRelevance, relevance

MAX_BITS = 2**15 - 2


@dataclass(frozen=True)
class DistanceCounts:
    """Histograms of the Hamming distances from each query to the database.

    Attributes:
        all: (Q, K + 1) int64, items at each distance.
        relevant: (Q, K + 1) int64, relevant items at each distance.

    Raises:
        ValueError: if the two differ in shape, or an item is relevant that is not there.
    """

    all: np.ndarray
    relevant: np.ndarray

    def __post_init__(self) -> None:
        if self.all.ndim != 2 or self.all.shape != self.relevant.shape:
            raise ValueError(f"all {self.all.shape} and relevant {self.relevant.shape} are both (Q, K + 1)")
        if np.any(self.relevant > self.all) or np.any(self.relevant < 0):
            raise ValueError("relevant counts lie between 0 and the counts of all items")

    @property
    def bits(self) -> int:
        """Length of a code, K."""
        return self.all.shape[1] - 1

    @property
    def num_queries(self) -> int:
        """Number of queries, Q."""
        return self.all.shape[0]

    @property
    def num_relevant(self) -> np.ndarray:
        """Relevant items of each query in the whole database, (Q,) int64."""
        return self.relevant.sum(axis=1)

    @property
    def database_size(self) -> int:
        """Number of database items, N; 0 if there is no query."""
        return int(self.all[0].sum()) if self.num_queries else 0


def count_distances(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    bits: int,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    device: torch.device | str | None = None,
) -> DistanceCounts:
    """Count items and relevant items at each Hamming distance from each query.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        database_codes: (N, ceil(K / 64)) uint64.
        bits: K, from 1 to 32,766.
        query_labels: (Q,) integers or (Q, C) multi-hot; relevant = same class, or at least one label in
            common.
        database_labels: (N,) integers or (N, C) multi-hot.
        device: None for the compiled loop on the CPU; a torch device (``cuda``, also ``cpu``) for products in
            blocks on that device. Both give the same integers.

    Raises:
        ValueError: if codes, labels and ``bits`` do not go together.
        TypeError: if the codes are not packed or the labels have a wrong type.
    """
    check_counting_inputs(query_codes, database_codes, bits, query_labels, database_labels)
    labels = relevance(query_labels, database_labels)
    if device is not None:
        return DistanceCounts(*count_on_device(query_codes, database_codes, bits, labels, torch.device(device)))
    if isinstance(labels, ClassRelevance):
        return _count_classes(query_codes, database_codes, bits, labels)
    return _count_masks(query_codes, database_codes, bits, labels)


def check_counting_inputs(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    bits: int,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
) -> None:
    """Make sure that codes and labels of both parts go together.

    Raises:
        ValueError: if they do not.
        TypeError: if the codes are not packed.
    """
    if bits > MAX_BITS:
        raise ValueError(f"bits={bits}: distances are counted for codes of at most {MAX_BITS} bits")
    for part, codes, labels in (
        ("query", query_codes, query_labels),
        ("database", database_codes, database_labels),
    ):
        check_codes(codes, bits, f"{part}_codes")
        if len(codes) != len(labels):
            raise ValueError(f"{part}_codes has {len(codes)} rows and {part}_labels {len(labels)}: one label per code")


def _count_classes(queries: np.ndarray, database: np.ndarray, bits: int, labels: ClassRelevance) -> DistanceCounts:
    by_class = np.argsort(labels.database, kind="stable")
    columns = np.ascontiguousarray(database[by_class].T)
    bounds = np.searchsorted(labels.database[by_class], np.arange(labels.num_classes + 1))
    own = labels.query >= 0
    begins = np.where(own, bounds[labels.query], 0)
    ends = np.where(own, bounds[labels.query + own], 0)
    return DistanceCounts(*_count_own_block(np.ascontiguousarray(queries), columns, bits + 1, begins, ends))


def _count_masks(queries: np.ndarray, database: np.ndarray, bits: int, labels: MaskRelevance) -> DistanceCounts:
    columns = np.ascontiguousarray(database.T)
    label_columns = np.ascontiguousarray(labels.database.T)
    return DistanceCounts(
        *_count_common_labels(np.ascontiguousarray(queries), columns, bits + 1, labels.query, label_columns)
    )


@njit(cache=True)
def _tally_range(query: np.ndarray, columns: np.ndarray, begin: int, end: int, lanes: np.ndarray) -> None:
    buffer = np.empty(BLOCK, np.uint16)
    for start in range(begin, end, BLOCK):
        keys = buffer[: min(BLOCK, end - start)]
        write_distances(query, columns, start, keys)
        tally(keys, lanes)


@njit(cache=True)
def _tally_with_labels(
    query: np.ndarray, columns: np.ndarray, labels: np.ndarray, label_columns: np.ndarray, lanes: np.ndarray
) -> None:
    """Count into twice the bins: the upper half for the items that share a label with the query."""
    buffer = np.empty(BLOCK, np.uint16)
    common = np.empty(BLOCK, np.uint64)
    bins = lanes.shape[1] // 2
    size = columns.shape[1]
    for start in range(0, size, BLOCK):
        keys = buffer[: min(BLOCK, size - start)]
        write_distances(query, columns, start, keys)
        add_where_labels_meet(labels, label_columns, start, bins, keys, common)
        tally(keys, lanes)


@njit(cache=True)
def _add_lanes(lanes: np.ndarray, begin: int, counts: np.ndarray) -> None:
    for lane in range(LANES):
        for i in range(len(counts)):
            counts[i] += lanes[lane, begin + i]


@njit(parallel=True, cache=True)
def _count_own_block(
    queries: np.ndarray, columns: np.ndarray, bins: int, begins: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count with the database sorted by class: a query's relevant items lie from ``begins`` to ``ends``."""
    every = np.zeros((len(queries), bins), np.int64)
    relevant = np.zeros((len(queries), bins), np.int64)
    for q in prange(len(queries)):
        lanes = np.zeros((LANES, bins), np.int32)
        _tally_range(queries[q], columns, begins[q], ends[q], lanes)
        _add_lanes(lanes, 0, relevant[q])
        _tally_range(queries[q], columns, 0, begins[q], lanes)
        _tally_range(queries[q], columns, ends[q], columns.shape[1], lanes)
        _add_lanes(lanes, 0, every[q])
    return every, relevant


@njit(parallel=True, cache=True)
def _count_common_labels(
    queries: np.ndarray, columns: np.ndarray, bins: int, query_masks: np.ndarray, label_columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    every = np.zeros((len(queries), bins), np.int64)
    relevant = np.zeros((len(queries), bins), np.int64)
    for q in prange(len(queries)):
        lanes = np.zeros((LANES, 2 * bins), np.int32)
        _tally_with_labels(queries[q], columns, query_masks[q], label_columns, lanes)
        _add_lanes(lanes, 0, every[q])
        _add_lanes(lanes, bins, every[q])
        _add_lanes(lanes, bins, relevant[q])
    return every, relevant
