import numpy as np
import pytest
from rankings import mean_over_ties

from retrieval.asymmetric import asymmetric_average_precision, fixed_point
from retrieval.average_precision import average_precision, stable_average_precision
from retrieval.codes import pack
from retrieval.counting import count_distances

DENOMINATORS = ("found", "min(R,k)", "R")


def small(bits=6, queries=5, items=7, seed=0):
    """Values from a few levels, so that scores tie; a value of -0.0 and a zero row among them."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.5, -0.5, 0.5, 1.0], size=(queries, bits)).astype(np.float32)
    values[0] = 0.0
    database = rng.random((items, bits)) < 0.5
    database[3] = database[5]
    return values, database, rng.integers(0, 2, queries), rng.integers(0, 2, items)


@pytest.mark.parametrize("k", [None, 1, 4])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_expectation_is_the_mean_over_all_orders_of_equal_inner_products(k, denominator):
    values, database, labels, items = small()
    found = asymmetric_average_precision(values, pack(database), 6, labels, items, k, "expected", denominator)
    for q in range(5):
        scores = [sum(h if bit else -h for h, bit in zip(values[q].tolist(), code, strict=True)) for code in database]
        slow = mean_over_ties(scores, [bool(label == labels[q]) for label in items], k, denominator)
        assert found[q] == pytest.approx(slow, abs=1e-13)


@pytest.mark.parametrize("ties", ["expected", "optimistic", "pessimistic", "stable"])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_binary_queries_rank_as_hamming_distance_does(ties, multi_hot):
    rng = np.random.default_rng(3)
    bits, k = 70, 40
    query, database = rng.random((20, bits)) < 0.5, rng.random((150, bits)) < 0.5
    database[50:100] = database[:50]
    labels, items = (
        (rng.random((20, 5)) < 0.3, rng.random((150, 5)) < 0.3)
        if multi_hot
        else (rng.integers(0, 3, 20), rng.integers(0, 3, 150))
    )
    found = asymmetric_average_precision(query * 2.0 - 1, pack(database), bits, labels, items, k, ties)
    if ties == "stable":
        expected = stable_average_precision(pack(query), pack(database), bits, labels, items, k)
    else:
        expected = average_precision(count_distances(pack(query), pack(database), bits, labels, items), k, ties)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("bits", [1, 3, 8, 13, 64, 65, 130])
def test_every_length_of_code_ranks_as_a_matrix_product_does(bits):
    rng = np.random.default_rng(4)
    values, database = rng.normal(size=(9, bits)).astype(np.float32), rng.random((6, bits)) < 0.5
    labels, items = rng.integers(0, 3, 9), rng.integers(0, 3, 6)
    found = asymmetric_average_precision(values, pack(database), bits, labels, items)
    products = np.round(values.astype(np.float64) @ (database * 2.0 - 1).T, 9)
    for q in range(9):
        slow = mean_over_ties(products[q].tolist(), [bool(label == labels[q]) for label in items], None, "R")
        assert found[q] == pytest.approx(slow, abs=1e-13)


def test_ties_do_not_depend_on_the_order_of_summation():
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in float64; as scores of permuted bits they tie."""
    values = np.array([[0.1, 0.2, 0.3, 0.3, 0.2, 0.1]])
    database = pack(np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=bool))
    for relevant in ([0, 1], [1, 0]):
        value = asymmetric_average_precision(values, database, 6, np.array([0]), np.array(relevant))
        assert value.tolist() == [0.75]


def test_fixed_point_keeps_float32_and_the_order_of_magnitude():
    values = np.array([[1.0, -0.3, 3e-6], [1e30, 1e25, -1e30], [0.0, 0.0, 0.0]], dtype=np.float32)
    fixed = fixed_point(values)
    assert np.abs(fixed).max() <= 2**45
    np.testing.assert_array_equal(fixed[0] / 2.0**44, values[0].astype(np.float64))
    assert fixed[2].tolist() == [0, 0, 0]


def test_what_does_not_fit_is_named():
    values, database, labels, items = small()
    with pytest.raises(ValueError, match=r"values of 5 bits are \(Q, 5\)"):
        asymmetric_average_precision(values, pack(database), 5, labels, items)
    with pytest.raises(ValueError, match="query_labels 4"):
        asymmetric_average_precision(values, pack(database), 6, labels[:4], items)
    with pytest.raises(ValueError, match="k=0"):
        asymmetric_average_precision(values, pack(database), 6, labels, items, 0)
    values[2, 1] = np.inf
    with pytest.raises(ValueError, match="the first is row 2"):
        asymmetric_average_precision(values, pack(database), 6, labels, items)
