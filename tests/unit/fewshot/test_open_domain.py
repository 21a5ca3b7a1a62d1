"""Seen, unseen and their harmonic mean, from a confusion matrix."""

import numpy as np
import pytest

from lit_modules.metrics.open_domain import open_domain_metrics

CONFUSION = np.array([[3, 1, 0], [0, 2, 2], [1, 0, 1]])


def test_both_kinds_and_their_harmonic_mean():
    metrics = open_domain_metrics(CONFUSION, np.array([True, True, False]))
    assert metrics == pytest.approx({"seen": 5 / 8, "unseen": 1 / 2, "harmonic": 2 / (8 / 5 + 2)})


def test_a_kind_without_samples_is_left_out():
    assert open_domain_metrics(CONFUSION, np.ones(3, dtype=bool)) == pytest.approx({"seen": 0.6})


def test_nothing_right_is_a_harmonic_mean_of_zero():
    assert open_domain_metrics(np.array([[0, 1], [1, 0]]), np.array([True, False]))["harmonic"] == 0


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="2 classes"):
        open_domain_metrics(CONFUSION, np.array([True, False]))
