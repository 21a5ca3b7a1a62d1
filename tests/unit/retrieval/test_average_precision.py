from fractions import Fraction
from itertools import permutations, product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.average_precision import (
    Denominator,
    average_precision,
    harmonic_numbers,
    stable_average_precision,
)
from retrieval.averaging import kept_queries, mean_over_queries, without_relevant
from retrieval.codes import pack
from retrieval.counting import DistanceCounts, count_distances

DENOMINATORS = get_args(Denominator)
HISTOGRAM_TIES = ("expected", "optimistic", "pessimistic")


def ranked_average_precision(relevances, k, denominator):
    """Exact average precision of one ranking, from its definition."""
    k = len(relevances) if k is None else min(k, len(relevances))
    total = sum(
        (Fraction(sum(relevances[: rank + 1]), rank + 1) for rank in range(k) if relevances[rank]),
        Fraction(0),
    )
    divisor = {"found": sum(relevances[:k]), "min(R,k)": min(sum(relevances), k), "R": sum(relevances)}[denominator]
    return total / divisor if divisor else Fraction(0)


def orders(distances, relevances):
    """Yield the relevances of every order of the items that a sort by distance may give."""
    groups = [
        [relevance for distance, relevance in zip(distances, relevances, strict=True) if distance == each]
        for each in sorted(set(distances))
    ]
    for arrangement in product(*(list(permutations(group)) for group in groups)):
        yield [relevance for group in arrangement for relevance in group]


def mean_of_orders(distances, relevances, k, denominator):
    values = [ranked_average_precision(order, k, denominator) for order in orders(distances, relevances)]
    return sum(values) / len(values)


def with_relevant_at_one_end(distances, relevances, first):
    pairs = sorted(zip(distances, relevances, strict=True), key=lambda pair: (pair[0], pair[1] != first))
    return [relevance for _, relevance in pairs]


def to_counts(distances, relevances, bits):
    every, relevant = np.zeros((1, bits + 1), np.int64), np.zeros((1, bits + 1), np.int64)
    for distance, is_relevant in zip(distances, relevances, strict=True):
        every[0, distance] += 1
        relevant[0, distance] += is_relevant
    return DistanceCounts(every, relevant)


small_rankings = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5)
cuts = st.one_of(st.none(), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(ranking=small_rankings, k=cuts, denominator=st.sampled_from(DENOMINATORS))
def test_expected_is_the_mean_over_all_orders(ranking, k, denominator):
    distances, relevances = zip(*ranking, strict=True)
    value = average_precision(to_counts(distances, relevances, 2), k, "expected", denominator)
    assert value[0] == pytest.approx(float(mean_of_orders(distances, relevances, k, denominator)), abs=1e-14)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("k", [None, 1, 2, 3, 4, 5])
def test_expected_where_one_tie_holds_everything(k, denominator):
    for num_relevant in range(6):
        relevances = [True] * num_relevant + [False] * (5 - num_relevant)
        value = average_precision(to_counts([1] * 5, relevances, 2), k, "expected", denominator)
        expected = mean_of_orders([1] * 5, relevances, k, denominator)
        assert value[0] == pytest.approx(float(expected), abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(ranking=small_rankings, k=cuts, denominator=st.sampled_from(DENOMINATORS))
def test_optimistic_and_pessimistic_are_the_two_end_orders(ranking, k, denominator):
    distances, relevances = zip(*ranking, strict=True)
    counts = to_counts(distances, relevances, 2)
    for ties, first in (("optimistic", True), ("pessimistic", False)):
        order = with_relevant_at_one_end(distances, relevances, first)
        value = average_precision(counts, k, ties, denominator)
        assert value[0] == pytest.approx(float(ranked_average_precision(order, k, denominator)), abs=1e-14)
    if denominator != "found" or k is None:
        values = [ranked_average_precision(order, k, denominator) for order in orders(distances, relevances)]
        assert average_precision(counts, k, "optimistic", denominator)[0] == pytest.approx(float(max(values)))
        assert average_precision(counts, k, "pessimistic", denominator)[0] == pytest.approx(float(min(values)))


def clustered(rng, multi_label, queries=6, items=400, bits=10):
    query_class, database_class = rng.integers(0, 5, queries), rng.integers(0, 4, items)
    centres = rng.random((5, bits)) < 0.5
    query = centres[query_class] ^ (rng.random((queries, bits)) < 0.2)
    database = centres[database_class] ^ (rng.random((items, bits)) < 0.2)
    if not multi_label:
        return query, database, query_class, database_class
    return query, database, rng.random((queries, 70)) < 0.03, rng.random((items, 70)) < 0.03


def related(query_label, database_labels):
    if database_labels.ndim == 1:
        return database_labels == query_label
    return np.array([bool(np.any(labels & query_label)) for labels in database_labels])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("k", [None, 1, 37, 400, 1000])
def test_stable_is_a_stable_sort(k, denominator, multi_label):
    query, database, query_labels, database_labels = clustered(np.random.default_rng(3), multi_label)
    values = stable_average_precision(pack(query), pack(database), 10, query_labels, database_labels, k, denominator)
    for value, own, label in zip(values, query, query_labels, strict=True):
        order = np.argsort((database != own).sum(axis=1), kind="stable")
        relevances = related(label, database_labels)[order].tolist()
        assert value == pytest.approx(float(ranked_average_precision(relevances, k, denominator)), rel=1e-12)


def slow_expected(every, relevant, k, denominator):
    """Walk rank by rank: each rank's chance of a hit, and given it the hits ahead of it in the same tie."""
    total, before, hits = 0.0, 0, 0
    size = int(every.sum())
    k = size if k is None else min(k, size)
    for n, r in zip(every.tolist(), relevant.tolist(), strict=True):
        for j in range(1, n + 1):
            if before + j <= k and r:
                ahead = (j - 1) * (r - 1) / (n - 1) if n > 1 else 0
                total += r / n * (hits + 1 + ahead) / (before + j)
        before, hits = before + n, hits + r
    divisor = {"min(R,k)": min(hits, k), "R": hits}[denominator]
    return total / divisor if divisor else 0.0


@pytest.mark.parametrize("denominator", ["min(R,k)", "R"])
@pytest.mark.parametrize("k", [None, 100, 1234, 20_000])
def test_expected_on_larger_counts_is_the_rank_by_rank_sum(k, denominator):
    rng = np.random.default_rng(5)
    database_labels, query_labels = rng.integers(0, 10, 6000), rng.integers(0, 10, 20)
    query, database = rng.random((20, 12)) < 0.3, rng.random((6000, 12)) < 0.3
    counts = count_distances(pack(query), pack(database), 12, query_labels, database_labels)
    values = average_precision(counts, k, "expected", denominator)
    for value, every, relevant in zip(values, counts.all, counts.relevant, strict=True):
        assert value == pytest.approx(slow_expected(every, relevant, k, denominator), rel=1e-11)


@pytest.mark.parametrize("k", [10, 150, 290])
def test_expected_found_inside_a_large_tie_is_the_mean_of_shuffles(k):
    """300 items in one tie after a hit and a miss: the mean of drawn orders, within four standard errors."""
    rng = np.random.default_rng(k)
    relevances = np.arange(300) < 40
    drawn = []
    for _ in range(4000):
        order = np.concatenate([[True, False], rng.permutation(relevances)])[:k]
        precisions = np.cumsum(order) / np.arange(1, k + 1)
        drawn.append(precisions[order].mean())
    counts = to_counts([0, 1] + [2] * 300, [True, False, *relevances], 2)
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert average_precision(counts, k)[0] == pytest.approx(np.mean(drawn), abs=4 * error)


@pytest.mark.parametrize(("items", "relevant", "k"), [(30, 11, 13), (30, 29, 7), (400, 3, 200), (50, 25, 25)])
def test_expected_found_in_one_tie_sums_over_the_exact_hypergeometric(items, relevant, k):
    from math import comb

    value = Fraction(0)
    for x in range(max(0, k - (items - relevant)), min(relevant, k) + 1):
        chance = Fraction(comb(relevant, x) * comb(items - relevant, k - x), comb(items, k))
        pairs = Fraction(x - 1, k - 1)
        mean = sum((Fraction(1, k) * (1 + (j - 1) * pairs) / j for j in range(1, k + 1)), Fraction(0))
        value += chance * (mean if x else 0)
    counts = to_counts([0] * items, [True] * relevant + [False] * (items - relevant), 1)
    assert average_precision(counts, k)[0] == pytest.approx(float(value), rel=1e-13)


@pytest.mark.parametrize("ties", HISTOGRAM_TIES)
def test_without_ties_all_choices_agree(ties):
    relevances = [True, False, True, True, False]
    counts = to_counts(range(5), relevances, 4)
    for k, denominator in product((None, 2, 3), DENOMINATORS):
        value = average_precision(counts, k, ties, denominator)[0]
        assert value == pytest.approx(float(ranked_average_precision(relevances, k, denominator)), abs=1e-15)


def test_collapsed_codes_score_about_the_share_of_relevant_items():
    labels = np.arange(50_000) % 10
    codes = pack(np.ones((50_000, 8), dtype=bool))
    counts = count_distances(codes[:10], codes, 8, labels[:10], labels)
    share, others = 4999 / 49_999, 45_000 / 49_999
    exact = share + others / 50_000 * sum(1 / j for j in range(1, 50_001))
    np.testing.assert_allclose(average_precision(counts), exact, rtol=1e-12)
    stable = stable_average_precision(codes[:10], codes, 8, labels[:10], labels)
    assert stable[0] > exact > stable[9]


def test_harmonic_numbers_keep_the_digits_of_small_differences():
    high, low = harmonic_numbers(200_000)
    for begin, end in ((199_998, 200_000), (100_000, 100_003), (0, 5)):
        exact = sum((Fraction(1, n) for n in range(begin + 1, end + 1)), Fraction(0))
        assert (high[end] - high[begin]) + (low[end] - low[begin]) == pytest.approx(float(exact), rel=1e-14)


def test_queries_without_relevant_items_count_zero_or_are_dropped():
    every = np.array([[2, 0], [1, 1], [0, 2]])
    counts = DistanceCounts(every, np.array([[2, 0], [0, 0], [0, 1]]))
    values = average_precision(counts, 1)
    assert without_relevant(counts).tolist() == [False, True, False]
    assert values.tolist() == [1.0, 0.0, 0.5]
    assert mean_over_queries(values, counts) == 0.5
    assert mean_over_queries(values, counts, "drop") == 0.75


def test_nothing_to_average_is_an_error():
    nobody = DistanceCounts(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64))
    assert average_precision(nobody).shape == (0,)
    with pytest.raises(ValueError, match="no query"):
        mean_over_queries(average_precision(nobody), nobody)
    hopeless = DistanceCounts(np.ones((2, 3), np.int64), np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="share labels"):
        kept_queries(hopeless, "drop")
    with pytest.raises(ValueError, match="zero, drop"):
        kept_queries(hopeless, "ignore")


def test_unknown_choices_are_named_with_the_known_ones():
    counts = to_counts([0, 1], [True, False], 1)
    with pytest.raises(ValueError, match="expected, optimistic, pessimistic, stable"):
        average_precision(counts, ties="random")
    with pytest.raises(ValueError, match="found, min"):
        average_precision(counts, denominator="k")
    with pytest.raises(ValueError, match="k=0"):
        average_precision(counts, 0)
    with pytest.raises(ValueError, match="stable_average_precision"):
        average_precision(counts, ties="stable")
