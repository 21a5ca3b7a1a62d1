from itertools import permutations, product
from math import log2

import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.counting import count_distances
from retrieval.cumulative_gain import count_gains, grade_gains, normalized_gain_at

BITS = 3


def problem(classes, queries=5, items=7, seed=0):
    rng = np.random.default_rng(seed)
    query, database = rng.random((queries, BITS)) < 0.5, rng.random((items, BITS)) < 0.5
    labels = rng.random((queries, classes)) < 0.5, rng.random((items, classes)) < 0.5
    labels[0][0] = False
    return query, database, labels


def fast(query, database, labels, k, gain="exponential"):
    codes = pack(query), pack(database)
    counts = count_distances(*codes, query.shape[1], *labels)
    return normalized_gain_at(counts, count_gains(counts, *codes, *labels, gain), k)


def discounted(gains, k):
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))


def slow(query, database, grades, k, worth):
    """The mean over every order of equal distances, divided by the best order's gain."""
    distances = [int((query != code).sum()) for code in database]
    levels = [[n for n, distance in enumerate(distances) if distance == level] for level in sorted(set(distances))]
    gains = [worth(grade) for grade in grades]
    best = discounted(sorted(gains, reverse=True), k)
    orders = [[gains[n] for group in order for n in group] for order in product(*map(permutations, levels))]
    return sum(discounted(order, k) for order in orders) / len(orders) / best if best else 0.0


@pytest.mark.parametrize("k", [None, 1, 2, 5, 50])
@pytest.mark.parametrize(("gain", "worth"), [("exponential", lambda g: 2**g - 1), ("linear", lambda g: g)])
@pytest.mark.parametrize("classes", [4, 70])
def test_expectation_over_all_orders_of_ties(k, gain, worth, classes):
    query, database, labels = problem(classes)
    found = fast(query, database, labels, k, gain)
    for q in range(len(query)):
        grades = [int((labels[0][q] & item).sum()) for item in labels[1]]
        assert found[q] == pytest.approx(slow(query[q], database, grades, k, worth), rel=1e-12)
    assert found[0] == 0


@pytest.mark.parametrize("k", [None, 3])
def test_single_labels_are_grades_of_0_and_1(k):
    query, database, _ = problem(2, seed=1)
    labels = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 1, 1, 0, 3, 0])
    found = fast(query, database, labels, k)
    for q in range(len(query)):
        grades = [int(label == labels[0][q]) for label in labels[1]]
        assert found[q] == pytest.approx(slow(query[q], database, grades, k, float), rel=1e-12)
    one_hot = tuple(np.eye(4, dtype=bool)[part] for part in labels)
    np.testing.assert_allclose(fast(query, database, one_hot, k), found, rtol=1e-14)


def test_a_perfect_ranking_is_1_and_blocks_do_not_matter():
    """More items than a block holds, at distances that fall with the grade."""
    grade = np.arange(5000) % 5
    database = np.arange(4)[None, :] < grade[:, None]
    query = np.ones((1, 4), dtype=bool)
    assert fast(query, database, (query, database), None)[0] == pytest.approx(1.0, rel=1e-14)
    assert fast(query, ~database, (query, database), 100)[0] == 0


def test_unknown_choices_are_refused():
    query, database, labels = problem(3)
    with pytest.raises(ValueError, match="exponential, linear"):
        grade_gains(3, "quadratic")
    with pytest.raises(ValueError, match="k=0"):
        fast(query, database, labels, 0)
