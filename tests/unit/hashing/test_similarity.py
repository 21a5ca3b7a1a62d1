"""What labels have in common, pair by pair, and the terms that several losses share."""

import math

import pytest
import torch
from pair_losses import CLASS_NUMBERS, MULTI_HOT, draw, share

from lit_modules.hashing.similarity import balanced_weights, label_cosine, pair_likelihood, shared_label


@pytest.mark.parametrize("labels", [CLASS_NUMBERS, MULTI_HOT], ids=["class numbers", "multi-hot"])
def test_shared_label_equals_the_slow_loop(labels):
    rows = labels.tolist()
    assert shared_label(labels[:4], labels).tolist() == [[share(a, b) for b in rows] for a in rows[:4]]


def test_a_row_without_a_class_is_similar_to_nothing():
    empty = torch.zeros(1, 3)
    assert not shared_label(empty, torch.cat([empty, MULTI_HOT])).any()
    assert not shared_label(torch.tensor([-1]), torch.tensor([-1, 0])).any()
    assert not label_cosine(empty, torch.cat([empty, MULTI_HOT])).any()


def test_label_cosine_equals_the_slow_loop():
    def cosine(a, b):
        norm = math.sqrt(sum(a) * sum(b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0

    expected = [[cosine(a, b) for b in MULTI_HOT.tolist()] for a in MULTI_HOT.tolist()]
    torch.testing.assert_close(label_cosine(MULTI_HOT, MULTI_HOT), torch.tensor(expected))
    assert label_cosine(CLASS_NUMBERS, CLASS_NUMBERS).tolist() == [
        [float(a == b) for b in CLASS_NUMBERS.tolist()] for a in CLASS_NUMBERS.tolist()
    ]


def test_multi_hot_labels_may_be_whole_numbers():
    assert torch.equal(shared_label(MULTI_HOT.long(), MULTI_HOT.long()), shared_label(MULTI_HOT, MULTI_HOT))


def test_pair_likelihood_equals_the_plain_formula_and_does_not_overflow():
    theta, similar = draw(4, 5), draw(4, 5, seed=1) > 0
    plain = torch.log(1 + theta.exp()) - similar * theta
    torch.testing.assert_close(pair_likelihood(theta, similar), plain, rtol=1e-12, atol=0)
    extreme = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = pair_likelihood(extreme, torch.tensor([[True, False]]))
    loss.sum().backward()
    assert loss.tolist() == [[1e4, 1e4]]
    assert extreme.grad.tolist() == [[-1.0, 1.0]]


def test_balanced_weights_let_both_kinds_count_alike():
    similar = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    pairs = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    weights = balanced_weights(similar, pairs, torch.float64)
    assert weights[similar & pairs].tolist() == [4.0, 4.0]
    assert weights[~similar & pairs].tolist() == pytest.approx([8 / 6] * 6)
    assert weights[~pairs].tolist() == [0.0]


@pytest.mark.parametrize("similar", [True, False])
def test_pairs_of_one_kind_weigh_one(similar):
    pairs = torch.ones(2, 2, dtype=torch.bool)
    assert balanced_weights(torch.full((2, 2), similar), pairs).tolist() == [[1.0, 1.0], [1.0, 1.0]]
