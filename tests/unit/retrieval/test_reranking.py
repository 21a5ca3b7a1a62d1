import numpy as np
import pytest
from rankings import mean_over_ties, ranked_average_precision

from retrieval.average_precision import average_precision
from retrieval.codes import pack
from retrieval.counting import count_distances
from retrieval.reranking import reranked_average_precision, unit_rows

BITS = 5


def problem(queries=6, items=8, seed=0, multi_hot=False):
    rng = np.random.default_rng(seed)
    query, database = rng.random((queries, BITS)) < 0.5, rng.random((items, BITS)) < 0.5
    features = rng.integers(-1, 2, (queries, 3)).astype(np.float32), rng.integers(-1, 2, (items, 3)).astype(np.float32)
    labels = (
        (rng.random((queries, 3)) < 0.4, rng.random((items, 3)) < 0.4)
        if multi_hot
        else (rng.integers(0, 2, queries), rng.integers(0, 2, items))
    )
    return query, database, features, labels


def reranked(query, database, features, labels, candidates, k=None, ties="expected", denominator="found"):
    counts = count_distances(pack(query), pack(database), BITS, *labels)
    return reranked_average_precision(
        pack(query), pack(database), counts, *features, *labels, candidates, k, ties, denominator
    )


def relevant_items(labels, q):
    own, items = labels[0][q], labels[1]
    return [bool((own & item).any()) if items.ndim == 2 else bool(own == item) for item in items]


def slow_keys(query, database, features, candidates, q):
    """A key for each item, higher is better: the candidates by cosine, all others behind them by distance."""
    distances = [int((query[q] != code).sum()) for code in database]
    chosen = sorted(range(len(database)), key=lambda n: (distances[n], n))[:candidates]

    def cosine(n):
        a, b = features[0][q].astype(float), features[1][n].astype(float)
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return round(float(a @ b) / lengths, 12) if lengths else 0.0

    return [10 + cosine(n) if n in chosen else -float(distances[n]) for n in range(len(database))]


@pytest.mark.parametrize("candidates", [1, 4, 8, 50])
@pytest.mark.parametrize(("k", "denominator"), [(None, "found"), (3, "found"), (6, "min(R,k)"), (2, "R")])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_expectation_over_equal_cosines_and_equal_distances(candidates, k, denominator, multi_hot):
    query, database, features, labels = problem(multi_hot=multi_hot)
    found = reranked(query, database, features, labels, candidates, k, "expected", denominator)
    for q in range(len(query)):
        keys = slow_keys(query, database, features, candidates, q)
        assert found[q] == pytest.approx(mean_over_ties(keys, relevant_items(labels, q), k, denominator), abs=1e-12)


@pytest.mark.parametrize("k", [None, 2, 6])
def test_stable_keeps_the_order_of_search_and_database(k):
    query, database, features, labels = problem(seed=1)
    found = reranked(query, database, features, labels, 4, k, "stable", "R")
    for q in range(len(query)):
        keys = slow_keys(query, database, features, 4, q)
        distances = [(query[q] != code).sum() for code in database]
        order = sorted(range(len(database)), key=lambda n: (-keys[n], distances[n], n))
        flags = relevant_items(labels, q)
        slow = ranked_average_precision([flags[n] for n in order], k, "R")
        assert found[q] == pytest.approx(float(slow), abs=1e-13)


def test_equal_features_leave_all_candidates_tied():
    query, database, _, labels = problem(queries=30, items=40, seed=2)
    ones = np.ones((30, 2)), np.ones((40, 2))
    tied = np.ones((30, 1), dtype=bool), np.ones((40, 1), dtype=bool)
    expected = average_precision(count_distances(pack(tied[0]), pack(tied[1]), 1, *labels))
    np.testing.assert_allclose(reranked(query, database, ones, labels, 40), expected, rtol=1e-13)


def test_features_that_know_the_class_put_relevant_candidates_first():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 20), rng.integers(0, 3, 200)
    features = tuple(np.eye(3)[part] for part in labels)
    query, database = rng.random((20, BITS)) < 0.5, rng.random((200, BITS)) < 0.5
    assert reranked(query, database, features, labels, 200).tolist() == [1.0] * 20
    plain = average_precision(count_distances(pack(query), pack(database), BITS, *labels), 20)
    assert reranked(query, database, features, labels, 100, 20).mean() > plain.mean() + 0.3


def test_rows_of_unit_length():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32), 2, "query")
    assert rows.tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_what_does_not_fit_is_named():
    query, database, features, labels = problem()
    with pytest.raises(ValueError, match="candidates=0"):
        reranked(query, database, features, labels, 0)
    with pytest.raises(ValueError, match=r"query features have shape \(5, 3\)"):
        reranked(query, database, (features[0][:5], features[1]), labels, 2)
    with pytest.raises(ValueError, match="one width"):
        reranked(query, database, (features[0][:, :2], features[1]), labels, 2)
    features[1][4, 0] = np.nan
    with pytest.raises(ValueError, match="1 database samples are NaN or infinite, the first is row 4"):
        reranked(query, database, features, labels, 2)
