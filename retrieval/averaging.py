"""From a value per query to one number: what a query without relevant items counts as."""

from typing import Literal, get_args

import numpy as np

from retrieval.counting import DistanceCounts

EmptyQueries = Literal["zero", "drop"]


def without_relevant(counts: DistanceCounts) -> np.ndarray:
    """Return which queries have no relevant item in the whole database, (Q,) bool."""
    return counts.num_relevant == 0


def kept_queries(counts: DistanceCounts, empty_queries: EmptyQueries = "zero") -> np.ndarray:
    """Return which queries a mean is taken over.

    Args:
        counts: items and relevant items at each distance.
        empty_queries: a query without any relevant item in the database counts with its value, which is 0
            (``zero``), or not at all (``drop``). A query that has relevant items and finds none within a cut
            or radius counts as 0 in both.

    Returns:
        (Q,) bool, at least one of them true.

    Raises:
        ValueError: if the choice is unknown, there is no query, or none is left after dropping.
    """
    check_empty_queries(empty_queries)
    if counts.num_queries == 0:
        raise ValueError("there is no query to average over")
    if empty_queries == "zero":
        return np.ones(counts.num_queries, dtype=bool)
    kept = ~without_relevant(counts)
    if not kept.any():
        raise ValueError(
            f"none of the {len(kept)} queries has a relevant item in the database, and empty_queries='drop' "
            "drops them all: check that query and database share labels, or choose empty_queries='zero'"
        )
    return kept


def mean_over_queries(values: np.ndarray, counts: DistanceCounts, empty_queries: EmptyQueries = "zero") -> float:
    """Average a value per query.

    Args:
        values: (Q,) float, 0 for a query without relevant items.
        counts: the counts of the same queries.
        empty_queries: ``zero`` or ``drop``; see ``kept_queries``.

    Raises:
        ValueError: if the choice is unknown, there is no query, or none is left after dropping.
    """
    return float(values[kept_queries(counts, empty_queries)].mean())


def check_empty_queries(empty_queries: str) -> None:
    """Make sure that the choice exists.

    Raises:
        ValueError: if it does not.
    """
    if empty_queries not in get_args(EmptyQueries):
        raise ValueError(f"empty_queries={empty_queries!r}: choices are {', '.join(get_args(EmptyQueries))}")
