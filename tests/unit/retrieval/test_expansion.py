"""Neighbours' means and fused features, against loops over pairs of images."""

import math

import numpy as np
import pytest

from retrieval.expansion import augment_database, directions, expand_queries, fuse, nearest_directions

RNG = np.random.default_rng(1)
DATABASE = RNG.standard_normal((23, 6)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 6)).astype(np.float32)


def unit(vector):
    length = math.sqrt(sum(float(x) ** 2 for x in vector))
    return [float(x) / length for x in vector]


def cosine(one, other):
    return sum(a * b for a, b in zip(unit(one), unit(other), strict=True))


def slow_mean(own, items, alpha):
    """The direction of own + sum of max(cosine, 0)^alpha times each item."""
    total = unit(own)
    for item in items:
        weight = max(cosine(own, item), 0.0) ** alpha
        total = [a + weight * b for a, b in zip(total, unit(item), strict=True)]
    return unit(total)


def slow_neighbours(query, items, number, without=None):
    places = [place for place in range(len(items)) if place != without]
    return sorted(places, key=lambda place: -cosine(query, items[place]))[:number]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("neighbours", [1, 4])
def test_expanded_queries(neighbours, alpha):
    found = expand_queries(QUERIES, DATABASE, neighbours, alpha)
    for row, query in zip(found, QUERIES, strict=True):
        items = [DATABASE[place] for place in slow_neighbours(query, DATABASE, neighbours)]
        assert np.allclose(row, slow_mean(query, items, alpha), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("neighbours", [0, 1, 5, 22, 40])
def test_augmented_database(neighbours, alpha):
    found = augment_database(DATABASE, neighbours, alpha)
    for place, (row, item) in enumerate(zip(found, DATABASE, strict=True)):
        items = [DATABASE[near] for near in slow_neighbours(item, DATABASE, neighbours, without=place)]
        assert np.allclose(row, slow_mean(item, items, alpha), atol=1e-6)


def test_an_image_behind_its_copies_keeps_itself():
    copies = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    assert np.allclose(augment_database(copies, 1), [[1, 0], [1, 0], [1, 0], slow_mean([0, 1], [[1, 0]], 0)], atol=1e-6)


def test_no_neighbour_changes_lengths_alone():
    assert np.array_equal(expand_queries(QUERIES, DATABASE, 0), directions(QUERIES))


def test_neighbours_of_equal_cosine_are_ordered_by_place():
    database = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    products, places = nearest_directions(np.array([[1, 0]], np.float32), database, 4)
    assert places.tolist() == [[1, 3, 4, 0]]
    assert products.tolist() == [[1, 1, 1, 0]]


def test_blocks_change_nothing(monkeypatch):
    whole = nearest_directions(QUERIES, DATABASE, 7)
    monkeypatch.setattr("retrieval.expansion.MAX_COSINES", 50)
    for one, other in zip(nearest_directions(QUERIES, DATABASE, 7), whole, strict=True):
        assert np.allclose(one, other)


def test_cosines_of_fused_features_are_weighted_means():
    others = RNG.standard_normal((5, 9)) * 100
    fused = fuse([QUERIES, others], [1.0, 3.0])
    for a in range(5):
        for b in range(5):
            wanted = (cosine(QUERIES[a], QUERIES[b]) + 3 * cosine(others[a], others[b])) / 4
            assert float(fused[a] @ fused[b]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("features", "weights", "expected"),
    [
        ([QUERIES, DATABASE], None, "features of 5, 23 images"),
        ([QUERIES], [1.0, 2.0], "2 weights do not go with 1"),
        ([QUERIES, QUERIES], [1.0, 0.0], "every one is above 0"),
    ],
)
def test_features_that_do_not_go_together_are_refused(features, weights, expected):
    with pytest.raises(ValueError, match=expected):
        fuse(features, weights)


def test_numbers_out_of_range_are_refused():
    for call in (lambda: augment_database(DATABASE, -1), lambda: expand_queries(QUERIES, DATABASE, 1, -0.5)):
        with pytest.raises(ValueError, match="0 or more"):
            call()
