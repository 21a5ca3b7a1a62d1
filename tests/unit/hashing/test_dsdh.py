"""DSDH's loss against a loop over pairs, and its codes and classifier against loops over single numbers."""

import math

import pytest
import torch
from pair_losses import (
    BITS,
    CLASS_NUMBERS,
    CLASSES,
    MULTI_HOT,
    assert_equals_slow,
    batch_of,
    build,
    dot,
    draw,
    share,
    sign,
)

from lit_modules.hashing.dsdh import DSDH, dsdh_loss, ridge_classifier, update_bits

LABELS = pytest.mark.parametrize("labels", [CLASS_NUMBERS, MULTI_HOT], ids=["class numbers", "multi-hot"])


def targets_of(labels):
    return torch.eye(CLASSES).double()[labels] if labels.ndim == 1 else labels.double()


def slow_loss(h, values, similar, code, eta, size):
    total = 0.0
    for i, row in enumerate(h):
        for j, other in enumerate(values):
            probability = 1 / (1 + math.exp(-dot(row, other) / 2))
            total -= math.log(probability if similar[i][j] else 1 - probability)
    squares = [(b - x) ** 2 for row, of_row in zip(h, code, strict=True) for x, b in zip(row, of_row, strict=True)]
    return total / (len(h) * len(values)) + eta * sum(squares) / (len(h) * size)


def slow_bits(codes, values, targets, weights, pull):
    """Set each bit to whichever of -1 and 1 makes the objective smaller, all others as they are."""
    codes = [list(row) for row in codes]

    def objective(n):
        errors = [
            targets[n][c] - sum(codes[n][k] * weights[k][c] for k in range(len(weights)))
            for c in range(len(weights[0]))
        ]
        return sum(e**2 for e in errors) + pull * sum((b - u) ** 2 for b, u in zip(codes[n], values[n], strict=True))

    for bit in range(len(weights)):
        for n in range(len(codes)):
            costs = {}
            for choice in (-1.0, 1.0):
                codes[n][bit] = choice
                costs[choice] = objective(n)
            codes[n][bit] = min(costs, key=costs.get)
    return codes


def test_loss_and_gradient_equal_the_slow_loop():
    h, values, similar = draw(4, BITS), draw(7, BITS, seed=1), draw(4, 7, seed=2) > 0
    code = draw(4, BITS, seed=3).sign()
    assert_equals_slow(
        lambda x: dsdh_loss(x, values, similar, code, 55.0, 20)["loss"],
        lambda rows: slow_loss(rows, values.tolist(), similar.tolist(), code.tolist(), 55.0, 20),
        h,
    )


@LABELS
def test_the_classifier_equals_least_squares_on_stacked_rows(labels):
    codes, ridge = draw(10, BITS).sign(), 0.7
    stacked = torch.cat([codes, math.sqrt(ridge) * torch.eye(BITS).double()])
    wanted = torch.cat([targets_of(labels), torch.zeros(BITS, CLASSES).double()])
    expected = torch.linalg.lstsq(stacked, wanted).solution
    torch.testing.assert_close(ridge_classifier(codes, labels, CLASSES, ridge), expected)


@LABELS
@pytest.mark.parametrize("pull", [0.05, 55.0])
def test_bits_equal_the_best_choice_one_at_a_time(labels, pull):
    codes, values, weights = draw(10, BITS).sign(), draw(10, BITS, seed=1), draw(BITS, CLASSES, seed=2)
    expected = slow_bits(codes.tolist(), values.tolist(), targets_of(labels).tolist(), weights.tolist(), pull)
    assert update_bits(codes, values, labels, weights, pull).tolist() == expected


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_module_finds_codes_for_the_rows_seen_and_pulls_to_them(multi_label):
    module, h, rows = build(DSDH, multi_label, eta=0.5, dcc_iterations=3), draw(4, BITS), [8, 2, 5, 1]
    labels = MULTI_HOT if multi_label else CLASS_NUMBERS
    codes = torch.zeros(4, BITS).double()
    seen = sorted(rows)
    values = torch.stack([h[rows.index(j)] for j in seen])
    for _ in range(3):
        weights = ridge_classifier(codes, labels[seen], CLASSES, 1.0)
        targets = targets_of(labels[seen])
        codes = torch.tensor(slow_bits(codes.tolist(), values.tolist(), targets.tolist(), weights.tolist(), 0.5))
        codes = codes.double()
    code = [codes[seen.index(i)].tolist() for i in rows]
    similar = [[share(labels[i].tolist(), labels[j].tolist()) for j in seen] for i in rows]
    loss = module.loss({"h": h}, batch_of(rows, multi_label))["loss"].item()
    assert loss == pytest.approx(slow_loss(h.tolist(), values.tolist(), similar, code, 0.5, 10))
    assert torch.equal(module.bank.codes[seen], codes)
    assert not module.bank.codes[[0, 3, 4, 6, 7, 9]].any()


def test_the_first_codes_are_signs_where_the_pull_is_strong():
    module, h = build(DSDH), draw(4, BITS)
    module.loss({"h": h}, batch_of([0, 1, 2, 3]))
    assert module.bank.codes[:4].tolist() == [[sign(x) for x in row] for row in h.tolist()]


def test_codes_do_not_reach_the_loss_where_the_published_code_is_asked_for():
    h, batch = draw(4, BITS), batch_of([0, 1, 2, 3])
    parts = build(DSDH, likelihood_gradient_only_as_published=True).loss({"h": h}, batch)
    assert parts["loss"] == parts["likelihood"]
    assert build(DSDH).loss({"h": h}, batch)["loss"] > parts["loss"]


def test_a_classifier_without_weight_is_refused():
    with pytest.raises(ValueError, match=r"task\.mu=0"):
        build(DSDH, mu=0)
