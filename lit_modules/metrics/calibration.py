"""Calibration: whether a classifier that says 0.8 is right eight times out of ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy in B equally wide bins of the confidence.

    Bin b holds the confidences in (b / B, (b + 1) / B]; a confidence of 0 belongs to the first.

    Attributes:
        counts: (B,) int64, samples of each bin.
        correct: (B,) int64, those of them that were classified right.
        confidence_sums: (B,) float64, sums of their confidences.
    """

    counts: NDArray[np.int64]
    correct: NDArray[np.int64]
    confidence_sums: NDArray[np.float64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """The B + 1 limits of the bins, 0 to 1."""
        return bin_edges(len(self.counts))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Accuracy of each bin, (B,); NaN where a bin is empty."""
        return _per_sample(self.correct.astype(np.float64), self.counts)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence of each bin, (B,); NaN where a bin is empty."""
        return _per_sample(self.confidence_sums, self.counts)

    @property
    def expected_error(self) -> float:
        """Expected calibration error: sum over bins of n_b / N * |accuracy_b - confidence_b|, in [0, 1].

        Source: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI
            2015; 15 bins as in Guo et al., "On calibration of modern neural networks", ICML 2017.
        """
        return float(np.abs(self.correct - self.confidence_sums).sum() / self.counts.sum())


def calibrated_together(parts: Sequence[Calibration]) -> Calibration:
    """Return the calibration of the samples of several evaluations with the same bins, one at least, taken together."""
    return Calibration(
        counts=np.sum([one.counts for one in parts], axis=0),
        correct=np.sum([one.correct for one in parts], axis=0),
        confidence_sums=np.sum([one.confidence_sums for one in parts], axis=0),
    )


def bin_edges(bins: int) -> NDArray[np.float64]:
    """Return the limits of `bins` equally wide bins of [0, 1], (bins + 1,)."""
    return np.linspace(0.0, 1.0, bins + 1)


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Sort samples into bins of their confidence.

    Args:
        confidence: (N,) in [0, 1], probability of the predicted class; N at least 1.
        correct: (N,), whether the prediction is right.
        bins: number of bins B, at least 1.
    """
    place = np.clip(np.searchsorted(bin_edges(bins), confidence, side="left") - 1, 0, bins - 1)
    return Calibration(
        counts=np.bincount(place, minlength=bins),
        correct=np.bincount(place[correct], minlength=bins),
        confidence_sums=np.bincount(place, weights=confidence, minlength=bins).astype(np.float64),
    )


def _per_sample(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
