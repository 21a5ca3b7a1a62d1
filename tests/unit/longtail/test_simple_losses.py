"""The losses of one stage and one network, each against a loop of plain numbers."""

import math

import pytest
import torch
from slow_numbers import COUNTS, LABELS, assert_equals_slow, cross_entropy, draw, log_softmax, priors, softmax

from lit_modules.longtail.balanced_softmax import balanced_softmax_loss
from lit_modules.longtail.class_balanced import sigmoid_focal_loss, sigmoid_loss
from lit_modules.longtail.feabal import class_shifts, curriculum, feature_balanced_loss
from lit_modules.longtail.focal import focal_loss
from lit_modules.longtail.lade import lade_regularizer
from lit_modules.longtail.ldam import class_margins, ldam_loss
from lit_modules.longtail.logit_adjustment import adjusted_loss, adjusted_scores

LOGITS = draw(len(LABELS), 4)
LABEL = torch.tensor(LABELS)
COUNT = torch.tensor(COUNTS)
WEIGHTS = [0.2, 0.5, 1.0, 2.3]
WEIGHT = torch.tensor(WEIGHTS, dtype=torch.float64)


def raised(rows, tau=1.0):
    return [[z + tau * math.log(p) for z, p in zip(row, priors(), strict=True)] for row in rows]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("probability", ["unweighted", "weighted"])
def test_focal(gamma, weights, probability):
    def slow(rows):
        total = 0.0
        for row, y in zip(rows, LABELS, strict=True):
            w = 1.0 if weights is None else weights[y]
            p = softmax(row)[y]
            shown = p**w if probability == "weighted" else p
            total -= w * (1 - shown) ** gamma * math.log(p)
        return total / len(rows)

    weight = None if weights is None else WEIGHT
    assert_equals_slow(lambda z: focal_loss(z, LABEL, gamma, weight, probability=probability), slow, LOGITS)


def test_focal_detached_has_the_same_value_and_the_modulated_gradient_of_the_cross_entropy():
    whole, cut = (focal_loss(LOGITS, LABEL, 2.0, detach=detach) for detach in (False, True))
    assert whole == cut
    modulation = [(1 - softmax(row)[y]) ** 2 for row, y in zip(LOGITS.tolist(), LABELS, strict=True)]

    def slow(rows):
        parts = [-m * log_softmax(row)[y] for m, row, y in zip(modulation, rows, LABELS, strict=True)]
        return sum(parts) / len(parts)

    assert_equals_slow(lambda z: focal_loss(z, LABEL, 2.0, detach=True), slow, LOGITS)


def test_focal_of_a_certain_answer_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), 0.5).backward()
    assert torch.isfinite(logits.grad).all()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("gamma", [None, 0.5, 2.0])
def test_sigmoid_losses(gamma):
    def slow(rows):
        total = 0.0
        for row, y in zip(rows, LABELS, strict=True):
            for c, z in enumerate(row):
                right = sigmoid(z) if c == y else 1 - sigmoid(z)
                total -= WEIGHTS[y] * (1 - right) ** (gamma or 0) * math.log(right)
        return total / len(rows)

    if gamma is None:
        assert_equals_slow(lambda z: sigmoid_loss(z, LABEL, WEIGHT), slow, LOGITS)
    else:
        assert_equals_slow(lambda z: sigmoid_focal_loss(z, LABEL, WEIGHT, gamma), slow, LOGITS)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_balanced_softmax(weights):
    def slow(rows):
        total, mass = 0.0, 0.0
        for row, y in zip(rows, LABELS, strict=True):
            w = 1.0 if weights is None else weights[y]
            denominator = sum(n * math.exp(z) for n, z in zip(COUNTS, row, strict=True))
            total -= w * math.log(COUNTS[y] * math.exp(row[y]) / denominator)
            mass += w
        return total / mass

    weight = None if weights is None else WEIGHT
    assert_equals_slow(lambda z: balanced_softmax_loss(z, LABEL, COUNT, weight), slow, LOGITS)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_logit_adjustment(tau):
    def slow(rows):
        return cross_entropy(raised(rows, tau), LABELS, WEIGHTS)

    assert_equals_slow(lambda z: adjusted_loss(z, LABEL, COUNT, tau, WEIGHT), slow, LOGITS)
    expected = raised(LOGITS.tolist(), -tau)
    torch.testing.assert_close(adjusted_scores(LOGITS, COUNT, tau), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ldam(weights):
    largest = max(n**-0.25 for n in COUNTS)
    margins = [0.5 * n**-0.25 / largest for n in COUNTS]

    def slow(rows):
        shifted = [
            [30 * (cosine - margins[y] * (c == y)) for c, cosine in enumerate(row)]
            for row, y in zip(rows, LABELS, strict=True)
        ]
        return cross_entropy(shifted, LABELS, weights)

    found = class_margins(COUNT.double(), 0.5)
    assert found.tolist() == pytest.approx(margins)
    weight = None if weights is None else WEIGHT
    cosines = torch.tanh(LOGITS)
    assert_equals_slow(lambda cosine: ldam_loss(30 * cosine, LABEL, found, 30.0, weight), slow, cosines)


def test_ldam_margins_of_cifar_lt_at_ratio_100():
    counts = torch.tensor([int(500 * 0.01 ** (k / 99)) for k in range(100)])
    margins = class_margins(counts.double())
    assert (margins[0].item(), margins[-1].item()) == pytest.approx((0.158, 0.5), abs=5e-4)


@pytest.mark.parametrize("square_weight", [0.01, 0.1])
def test_lade_regularizer_with_an_absent_class(square_weight):
    pi, size, classes = priors(), len(LABELS), 4
    assert 3 not in LABELS

    def slow(rows):
        total = 0.0
        for c in range(classes):
            own = [row[c] for row, y in zip(rows, LABELS, strict=True) if y == c]
            first = sum(own) / len(own) if own else 0.0
            ratio = sum(math.exp(row[c]) * (1 / classes) / pi[c] for row in rows) / size
            second = math.log(ratio)
            total -= pi[c] * (first - second - square_weight * second**2)
        return total

    assert_equals_slow(lambda z: lade_regularizer(z, LABEL, COUNT, square_weight), slow, LOGITS)


def test_feature_balanced_loss_and_its_gradient_to_features():
    features = draw(len(LABELS), 3, seed=1)
    gaps = [math.log(max(COUNTS)) - math.log(n) for n in COUNTS]
    shifts = [gap / max(gaps) for gap in gaps]

    def slow(rows, vectors):
        lowered = []
        for row, vector in zip(rows, vectors, strict=True):
            length = math.sqrt(sum(x * x for x in vector))
            lowered.append([z - 7.0 * shift / length for z, shift in zip(row, shifts, strict=True)])
        return cross_entropy(lowered, LABELS)

    found = class_shifts(COUNT.double())
    assert found.tolist() == pytest.approx(shifts)
    assert_equals_slow(
        lambda z: feature_balanced_loss(z, features, LABEL, found, 7.0),
        lambda rows: slow(rows, features.tolist()),
        LOGITS,
    )
    assert_equals_slow(
        lambda f: feature_balanced_loss(LOGITS, f, LABEL, found, 7.0),
        lambda vectors: slow(LOGITS.tolist(), vectors),
        features,
    )


def test_shifts_of_equal_counts_are_zero():
    assert class_shifts(torch.full((3,), 7.0)).tolist() == [0, 0, 0]


def test_the_curriculum_is_the_authors_up_to_their_190th_epoch_and_stays_whole():
    found = [curriculum(epoch / 200) for epoch in range(200)]
    assert found == pytest.approx([min(epoch / 190, 1.0) ** 2 for epoch in range(200)])
    assert max(found) == 1
    assert curriculum(9 / 10) == pytest.approx((0.9 / 0.95) ** 2)
