"""Which database items are relevant to a query: those that share at least one label with it."""

from dataclasses import dataclass

import numpy as np

from retrieval.codes import pack


@dataclass(frozen=True)
class ClassRelevance:
    """Relevance of single labels: the same class.

    Attributes:
        query: (Q,) int64, position of the query's label among the database's classes; -1 if the database
            lacks it.
        database: (N,) int64, position of each item's label among the database's classes.
        num_classes: number of classes in the database.
    """

    query: np.ndarray
    database: np.ndarray
    num_classes: int


@dataclass(frozen=True)
class MaskRelevance:
    """Relevance of multi-hot labels: at least one label in common.

    Attributes:
        query: (Q, L) uint64, the labels of a query packed like a code, L = ceil(C / 64).
        database: (N, L) uint64.
        num_labels: C.
    """

    query: np.ndarray
    database: np.ndarray
    num_labels: int


Relevance = ClassRelevance | MaskRelevance


def relevance(query_labels: np.ndarray, database_labels: np.ndarray) -> Relevance:
    """Prepare labels for counting.

    Args:
        query_labels: (Q,) integers, any values; or (Q, C) multi-hot, where an entry above 0 means the label
            is there.
        database_labels: (N,) or (N, C), of the same kind.

    Raises:
        ValueError: if the two kinds or the number of classes differ.
        TypeError: if single labels are not integers.
    """
    kinds = {1: "single labels (N,)", 2: "multi-hot labels (N, C)"}
    for name, labels in (("query_labels", query_labels), ("database_labels", database_labels)):
        if labels.ndim not in kinds:
            raise ValueError(f"{name} has shape {labels.shape}: choices are {' and '.join(kinds.values())}")
    if query_labels.shape[1:] != database_labels.shape[1:]:
        raise ValueError(
            f"query_labels {query_labels.shape} and database_labels {database_labels.shape} do not go "
            "together: both are single labels, or both are multi-hot over the same classes"
        )
    if query_labels.ndim == 1:
        return _class_relevance(query_labels, database_labels)
    return MaskRelevance(
        query=pack(query_labels > 0), database=pack(database_labels > 0), num_labels=query_labels.shape[1]
    )


def _class_relevance(query_labels: np.ndarray, database_labels: np.ndarray) -> ClassRelevance:
    for name, labels in (("query_labels", query_labels), ("database_labels", database_labels)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"{name} has dtype {labels.dtype}: single labels are integers, multi-hot ones are (N, C)")
    classes, database = np.unique(database_labels, return_inverse=True)
    if len(classes) == 0:
        return ClassRelevance(np.full(len(query_labels), -1, dtype=np.int64), database, 0)
    query = np.minimum(np.searchsorted(classes, query_labels), len(classes) - 1)
    query = np.where(classes[query] == query_labels, query, -1)
    return ClassRelevance(query.astype(np.int64), database.astype(np.int64), len(classes))


def flag_inputs(labels: Relevance) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what ``retrieval.kernels.write_relevant`` reads of queries and items.

    Returns:
        query classes (Q,), item classes (N,), query masks (Q, L), item masks (L, N); L = 0 if labels are classes.
    """
    if isinstance(labels, ClassRelevance):
        no_masks = np.zeros((len(labels.query), 0), np.uint64)
        return labels.query, labels.database, no_masks, np.zeros((0, len(labels.database)), np.uint64)
    no_classes = np.zeros(len(labels.query), np.int64)
    columns = np.ascontiguousarray(labels.database.T)
    return no_classes, np.zeros(len(labels.database), np.int64), labels.query, columns
