"""Remix: mixup whose label leans to the rarer class.

Loss: λ_y CE(z, y_a) + (1 - λ_y) CE(z, y_b), λ_y = 0 or 1 where one class is κ times the other and λ small

Chou, Chang, Pan, Wei and Juan, "Remix: Rebalanced Mixup", ECCV Workshops 2020. https://arxiv.org/abs/2007.03943
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.blending.labels import OWN_SHARE, PARTNER_LABEL
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.precision import full_precision


def label_shares(share: Tensor, own: Tensor, partner: Tensor, ratio: float = 3.0, threshold: float = 0.5) -> Tensor:
    """Return the own label's share of the target (B,): 0 or 1 where a much rarer class has enough of the image.

    Args:
        share: lambda (B,), the own image's share of the blend.
        own: training images of the own class, (B,).
        partner: training images of the partner's class, (B,).
        ratio: kappa; a class with `ratio` times fewer images is much rarer.
        threshold: tau; a much more frequent class with less than it of the image loses its label.
    """
    loses = (own >= ratio * partner) & (share < threshold)
    wins = (partner >= ratio * own) & (1 - share < threshold)
    return torch.where(loses, 0.0, torch.where(wins, 1.0, share))


def remix_loss(
    logits: Tensor, label: Tensor, partner_label: Tensor, shares: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the mean of CE(z_i, y_i) and CE(z_i, y'_i) over all i, weighted by s_i w and (1 - s_i) w.

    Each w is the weight of the label it goes with, or 1. logits are (B, C), the labels y and y' (B,), the own label's
    shares s (B,), weights (C,) or None.
    """
    own = F.cross_entropy(logits, label, weights, reduction="none")
    partner = F.cross_entropy(logits, partner_label, weights, reduction="none")
    sums = shares * own + (1 - shares) * partner
    if weights is None:
        return sums.mean()
    return sums.sum() / (shares * weights[label] + (1 - shares) * weights[partner_label]).sum()


class Remix(CrossEntropy):
    """Cross-entropy on blended images, each with its own label share; without `mixup_alpha` plain cross-entropy."""

    def __init__(self, *, ratio: float = 3.0, threshold: float = 0.5, **shared: Any) -> None:
        super().__init__(**shared)
        self.ratio = ratio
        self.threshold = threshold

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy against both labels by their rebalanced shares."""
        if PARTNER_LABEL not in batch:
            return super().loss(outputs, batch)
        self.count_predictions(outputs, batch)
        logits, label, partner_label = outputs["logits"], batch["label"], batch[PARTNER_LABEL]
        counts = self.counts(logits)
        with full_precision(logits):
            share = batch[OWN_SHARE].to(logits)
            shares = label_shares(share, counts[label], counts[partner_label], self.ratio, self.threshold)
            return {"loss": remix_loss(logits, label, partner_label, shares, self.weights(logits))}
