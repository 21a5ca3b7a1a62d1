"""Feature-balanced loss: logits of rare classes are lowered in training by an amount that longer features shrink.

Loss: -log softmax(z - γ(t) λ (log n_max - log n) / (max · |f|))_y, γ(t) rising to 1

Li, Cheung and Jiang, "Feature-Balanced Loss for Long-Tailed Visual Recognition", ICME 2022; the authors' code:
github.com/juyongjiang/FBL loss.py
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule

EPSILON = 1e-12


def class_shifts(class_counts: Tensor) -> Tensor:
    """Return lambda_c (C,) in [0, 1], (log n_max - log n_c) over its largest value; 0 where all counts are equal.

    `class_counts` (C,) is of a floating type, above 0.
    """
    gaps = class_counts.max().log() - class_counts.log()
    return gaps / gaps.max().clamp(min=EPSILON)


def curriculum(progress: float, full_at: float = 0.95) -> float:
    """Return (progress / full_at)^2 in [0, 1]: the square of the share of the run, whole at `full_at` of it.

    The authors' code divides by epochs - 10 (0.95 of 200 epochs) and goes beyond 1 in the last ten.
    """
    return min(progress / full_at, 1.0) ** 2


def feature_balanced_loss(
    logits: Tensor, features: Tensor, label: Tensor, shifts: Tensor, strength: float, weights: Tensor | None = None
) -> Tensor:
    """Return CE(z - strength * lambda_c / ||f||, y); every class is shifted, and the features get a gradient too.

    Args:
        logits: (B, C).
        features: (B, D).
        label: (B,).
        shifts: lambda_c (C,).
        strength: the paper's lambda times the curriculum.
        weights: (C,) or None.
    """
    length = features.norm(dim=1, keepdim=True) + EPSILON
    return F.cross_entropy(logits - strength * shifts / length, label, weights)


class FeatureBalanced(LongTailModule):
    """Feature-balanced loss with a curriculum over the run.

    Raises:
        ValueError: `full_at` does not lie in (0, 1].
    """

    def __init__(self, *, strength: float = 60.0, full_at: float = 0.95, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 < full_at <= 1:
            raise ValueError(f"task.full_at is a share of the run in (0, 1], not {full_at}")
        self.strength = strength
        self.full_at = full_at

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the shifted logits, at this epoch's strength."""
        logits = outputs["logits"]
        shifts = class_shifts(self.counts(logits).to(logits))
        strength = self.strength * curriculum(self.progress, self.full_at)
        weights = self.weights(logits)
        loss = feature_balanced_loss(logits, outputs["features"], batch["label"], shifts, strength, weights)
        return {"loss": loss}
