"""Accuracy where some classes had no training image: on seen classes, on unseen ones, and their harmonic mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def open_domain_metrics(confusion: Array, seen: Array) -> dict[str, float]:
    """Return `seen`, `unseen` and `harmonic`, fractions of samples, predictions ranging over all classes.

    The harmonic mean 2 s u / (s + u) is 0 where both are 0 (Xian et al., TPAMI 2019, generalised zero-shot learning).
    A kind of class that the part has no samples of is left out, and the harmonic mean with it.

    Args:
        confusion: (C, C) counts, rows are true classes.
        seen: (C,) bool, classes with training images.

    Raises:
        ValueError: the shapes do not fit.
    """
    if confusion.shape != (len(seen), len(seen)):
        raise ValueError(f"a confusion matrix {confusion.shape} does not go with {len(seen)} classes")
    right, total = np.diagonal(confusion), confusion.sum(axis=1)
    kinds = {"seen": np.asarray(seen, dtype=bool), "unseen": ~np.asarray(seen, dtype=bool)}
    metrics = {
        name: float(right[chosen].sum() / total[chosen].sum()) for name, chosen in kinds.items() if total[chosen].sum()
    }
    if len(metrics) == 2:
        both = metrics["seen"] + metrics["unseen"]
        metrics["harmonic"] = 2 * metrics["seen"] * metrics["unseen"] / both if both else 0.0
    return metrics
