"""LADE: cross-entropy under the source prior, and a regulariser that makes the logits log-likelihood ratios.

Loss: -log softmax(z + log π)_y - α Σ_c π_c (mean of z_c over class c - T_c - λ T_c²), T_c a log-mean-exp of z_c - log
π_c - log C

Hong, Han, Choi, Seo, Kim and Chang, "Disentangling Label Distribution for Long-Tailed Visual Recognition", CVPR 2021.
https://arxiv.org/abs/2012.00321
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.balanced_softmax import balanced_softmax_loss
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.class_weights import log_prior


def lade_regularizer(logits: Tensor, label: Tensor, class_counts: Tensor, square_weight: float = 0.01) -> Tensor:
    """Return -sum_c pi_c (mean_{i in c} z_ic - T_c - square_weight T_c^2), the paper's regulariser.

    T_c = log mean_i exp(z_ic) (1 / C) / pi_c over the whole batch, the Donsker-Varadhan bound's second term under a
    uniform prior. A class that the batch lacks has the first term 0, as in the authors' code.

    Args:
        logits: (B, C).
        label: (B,).
        class_counts: (C,), above 0.
        square_weight: lambda of the square, which keeps T near 0.
    """
    size, classes = logits.shape
    prior = log_prior(class_counts, logits)
    one_hot = F.one_hot(label, classes).to(logits.dtype)
    first = (one_hot * logits).sum(dim=0) / one_hot.sum(dim=0).clamp(min=1)
    second = torch.logsumexp(logits - prior - math.log(classes), dim=0) - math.log(size)
    return -(prior.exp() * (first - second - square_weight * second**2)).sum()


class LADE(LongTailModule):
    """CE(z + log pi, y) + alpha * regulariser; plain logits are judged, as under a uniform test prior."""

    def __init__(self, *, alpha: float = 0.1, square_weight: float = 0.01, **shared: Any) -> None:
        super().__init__(**shared)
        self.alpha = alpha
        self.square_weight = square_weight

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and its two parts."""
        logits, label = outputs["logits"], batch["label"]
        counts = self.counts(logits)
        classification = balanced_softmax_loss(logits, label, counts, self.weights(logits))
        regularizer = lade_regularizer(logits, label, counts, self.square_weight)
        return {
            "loss": classification + self.alpha * regularizer,
            "classification": classification,
            "regularizer": regularizer,
        }
