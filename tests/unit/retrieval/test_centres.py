"""Hash centres: distances by looking at every pair of plain integers, bounds by building the code they promise."""

import itertools

import numpy as np
import pytest
import torch

from retrieval.centres import (
    assign_centres,
    gilbert_varshamov_distance,
    hadamard,
    make_centres,
    minimum_distance,
    random_signs,
)


def as_integers(signs):
    return [int("".join("1" if sign > 0 else "0" for sign in row), 2) for row in signs.tolist()]


def slow_distance(signs):
    codes = as_integers(signs)
    return min(((a ^ b).bit_count() for a, b in itertools.combinations(codes, 2)), default=signs.shape[1])


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 48, 60, 64, 76, 128])
def test_hadamard_rows_are_orthogonal(order):
    matrix = hadamard(order)
    assert set(np.unique(matrix)) <= {-1, 1}
    assert (matrix.astype(int) @ matrix.T.astype(int) == order * np.eye(order)).all()


@pytest.mark.parametrize("order", [3, 6, 50, 52, 92])
def test_no_hadamard_matrix_where_none_is_known(order):
    assert hadamard(order) is None


@pytest.mark.parametrize(("rows", "bits"), [(1, 9), (2, 9), (40, 9), (300, 70), (40, 64)])
def test_minimum_distance_equals_the_slow_one(rows, bits):
    signs = np.random.default_rng(rows).choice([-1, 1], size=(rows, bits))
    assert minimum_distance(signs) == slow_distance(signs)


def test_minimum_distance_in_blocks(monkeypatch):
    signs = np.random.default_rng(0).choice([-1, 1], size=(60, 40))
    monkeypatch.setattr("retrieval.centres.WORK", 130)
    assert minimum_distance(signs) == slow_distance(signs)


@pytest.mark.parametrize(
    ("num_classes", "bits"),
    [
        *[(1, 1), (2, 1), (1, 5), (3, 2), (7, 3), (10, 12), (96, 48), (97, 48), (100, 50), (21, 20), (200, 8)],
        *[(256, 8), (100, 12), (300, 15), (500, 33), (700, 100), (1000, 48), (1000, 32), (1000, 64), (1200, 130)],
    ],
)
def test_best_centres_keep_the_distance_they_claim_and_the_bound(num_classes, bits):
    centres = make_centres(num_classes, bits, seed=3)
    assert centres.signs.shape == (num_classes, bits)
    assert set(np.unique(centres.signs)) <= {-1, 1}
    assert slow_distance(centres.signs) >= centres.min_distance
    assert centres.min_distance >= gilbert_varshamov_distance(num_classes, bits)


@pytest.mark.parametrize("bits", range(1, 8))
def test_any_number_of_classes_that_fits_has_different_centres(bits):
    for num_classes in range(1, 2**bits + 1):
        centres = make_centres(num_classes, bits, seed=0)
        assert len(set(as_integers(centres.signs))) == num_classes
        assert 1 <= centres.min_distance <= slow_distance(centres.signs)


@pytest.mark.parametrize("bits", [4, 12, 20, 32, 48, 64])
def test_up_to_twice_as_many_classes_as_bits_are_half_the_bits_apart(bits):
    centres = make_centres(2 * bits, bits, seed=0)
    assert centres.min_distance == slow_distance(centres.signs) == bits // 2


# the extended BCH codes [32, 11, 12], [64, 10, 28] and [64, 16, 24] are in MacWilliams and Sloane, 1977, chapter 7
@pytest.mark.parametrize(
    ("num_classes", "bits", "distance"), [(1000, 32, 12), (1000, 64, 28), (40_000, 64, 24), (1000, 48, 16)]
)
def test_many_classes_reach_the_distance_of_good_codes(num_classes, bits, distance):
    centres = make_centres(num_classes, bits, seed=0)
    assert centres.min_distance >= distance
    assert slow_distance(centres.signs[:500]) >= centres.min_distance


def greedy_code_size(bits, distance):
    """Count the words of the code that takes every word, in order, that is far enough from all taken before."""
    taken = []
    for word in range(2**bits):
        if all((word ^ other).bit_count() >= distance for other in taken):
            taken.append(word)
    return len(taken)


@pytest.mark.parametrize("bits", [3, 5, 7, 8])
def test_a_greedy_code_keeps_what_the_bound_promises(bits):
    sizes = {distance: greedy_code_size(bits, distance) for distance in range(1, bits + 1)}
    promised = [gilbert_varshamov_distance(number, bits) for number in range(2, 2**bits + 1)]
    assert max(promised) > 1
    for number, distance in enumerate(promised, start=2):
        assert sizes[distance] >= number


def test_the_bound_by_hand():
    # balls of 5 bits: 1, 6, 16, 26, 31; 3 codes: 2 * 6 < 32 but 2 * 16 is not, so distance 2
    assert [gilbert_varshamov_distance(number, 5) for number in (1, 2, 3, 6, 7, 32)] == [5, 5, 2, 2, 1, 1]


@pytest.mark.parametrize("rule", ["best", "half", "bernoulli"])
def test_centres_are_a_function_of_the_seed(rule):
    same = [make_centres(200, 20, seed=seed, rule=rule).signs for seed in (1, 1, 2)]
    assert (same[0] == same[1]).all()
    assert (same[0] != same[2]).any()


@pytest.mark.parametrize(("share", "minus"), [(0.5, 10), (0.25, 5)])
def test_half_has_its_share_of_minus_in_every_centre(share, minus):
    centres = make_centres(50, 20, seed=0, rule="half", share=share)
    assert ((centres.signs == -1).sum(axis=1) == minus).all()
    assert centres.min_distance == slow_distance(centres.signs)


def test_bernoulli_has_its_share_of_minus_over_all():
    centres = make_centres(400, 50, seed=0, rule="bernoulli", share=0.3)
    assert abs((centres.signs == -1).mean() - 0.3) < 0.02


def test_random_signs_are_balanced_over_many_bits():
    signs = random_signs(10_000, seed=0)
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.mean()) < 0.05


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match=r"bits=3: there are 8 codes for 9 classes; take at least 4 bits"):
        make_centres(9, 3, seed=0)
    with pytest.raises(ValueError, match="0 centres of 8 bits"):
        make_centres(0, 8, seed=0)
    with pytest.raises(ValueError, match="'hadamar': choose best, half, bernoulli"):
        make_centres(4, 8, seed=0, rule="hadamar")
    with pytest.raises(ValueError, match=r"share=1\.0"):
        make_centres(4, 8, seed=0, rule="half", share=1.0)


def test_a_sample_of_several_classes_takes_the_majority():
    centres = torch.tensor([[1.0, 1, 1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    tie = torch.tensor([-1.0, -1, 1, 1])
    label = torch.tensor([[1.0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 1]])
    expected = [[1, 1, 1, -1], [1, -1, 1, -1], [1, -1, 1, 1], [0, 0, 0, 0], [1, -1, 1, 1]]
    assert assign_centres(label, centres, tie).tolist() == expected


def test_a_sample_of_one_class_takes_its_centre():
    centres = torch.tensor([[1.0, -1], [-1, -1], [-1, 1]])
    assert assign_centres(torch.tensor([2, 0, 2]), centres, torch.ones(2)).tolist() == [[-1, 1], [1, -1], [-1, 1]]
