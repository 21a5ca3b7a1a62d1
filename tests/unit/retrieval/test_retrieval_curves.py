from itertools import permutations

import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.counting import DistanceCounts, count_distances
from retrieval.curves import (
    empty_balls,
    precision_at,
    precision_recall_curve,
    precision_within,
    recall_at,
    recall_within,
)

BITS = 6


def random_case(seed, items):
    rng = np.random.default_rng(seed)
    query, database = rng.random((5, BITS)) < 0.5, rng.random((items, BITS)) < 0.5
    query_labels, database_labels = rng.integers(0, 4, 5), rng.integers(0, 3, items)
    counts = count_distances(pack(query), pack(database), BITS, query_labels, database_labels)
    distances = np.array([[(own != other).sum() for other in database] for own in query])
    return counts, distances, query_labels[:, None] == database_labels[None, :]


@pytest.mark.parametrize("k", [1, 3, 5, 6, 9])
def test_precision_and_recall_at_a_rank_are_means_over_all_orders(k):
    counts, distances, relevant = random_case(k, 6)
    for q in range(5):
        hits = [
            sum(relevant[q, item] for item in order[:k])
            for order in permutations(range(6))
            if all(np.diff(distances[q, list(order)]) >= 0)
        ]
        assert precision_at(counts, k)[q] == pytest.approx(np.mean(hits) / min(k, 6), abs=1e-15)
        assert recall_at(counts, k)[q] == pytest.approx(np.mean(hits) / max(relevant[q].sum(), 1), abs=1e-15)


@pytest.mark.parametrize("radius", range(BITS + 1))
def test_precision_and_recall_within_a_radius(radius):
    counts, distances, relevant = random_case(radius, 20)
    inside = distances <= radius
    empty = 0
    for q in range(5):
        hits = (inside[q] & relevant[q]).sum()
        empty += not inside[q].any()
        assert precision_within(counts, radius)[q] == (hits / inside[q].sum() if inside[q].any() else 0)
        assert recall_within(counts, radius)[q] == (hits / relevant[q].sum() if relevant[q].any() else 0)
    assert empty_balls(counts, radius) == empty


@pytest.mark.parametrize("empty_queries", ["zero", "drop"])
def test_the_curve_holds_the_means_at_every_radius(empty_queries):
    counts, _, relevant = random_case(1, 20)
    kept = relevant.any(axis=1) | (empty_queries == "zero")
    assert 0 < relevant.any(axis=1).sum() < 5
    curve = precision_recall_curve(counts, empty_queries)
    assert curve.radius.tolist() == list(range(BITS + 1))
    for radius in range(BITS + 1):
        assert curve.precision[radius] == pytest.approx(precision_within(counts, radius)[kept].mean())
        assert curve.recall[radius] == pytest.approx(recall_within(counts, radius)[kept].mean())
        assert curve.empty_balls[radius] == empty_balls(counts, radius)
    assert (np.diff(curve.recall) >= 0).all()
    assert curve.recall[-1] == pytest.approx(relevant.any(axis=1)[kept].mean())


def test_ranks_and_radii_that_do_not_exist_are_refused():
    counts, _, _ = random_case(0, 6)
    for radius in (-1, BITS + 1):
        with pytest.raises(ValueError, match=r"lie in 0 \.\. 6"):
            precision_within(counts, radius)
    for function in (precision_at, recall_at):
        with pytest.raises(ValueError, match="k=0"):
            function(counts, 0)
    with pytest.raises(ValueError, match="database is empty"):
        precision_at(DistanceCounts(np.zeros((1, 3), np.int64), np.zeros((1, 3), np.int64)), 1)
