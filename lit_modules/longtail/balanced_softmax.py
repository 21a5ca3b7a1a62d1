"""Balanced softmax: each class's logit is raised by the logarithm of its training images while training.

Loss: -log softmax(z + log n)_y; plain z at test time

Ren, Yu, Sheng, Ma, Zhao, Yi and Li, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.
https://arxiv.org/abs/2007.10740
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.retrained_classifier import EnsembledClassifier


def balanced_softmax_loss(logits: Tensor, label: Tensor, class_counts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return CE(z + log n, y), logits (B, C), label (B,), class counts (C,) above 0; weights (C,) or None.

    A constant added to all logits changes nothing, so log n_c and the log prior log(n_c / N) give the same.
    """
    return F.cross_entropy(logits + log_prior(class_counts, logits), label, weights)


class BalancedSoftmax(EnsembledClassifier):
    """Balanced softmax; evaluation takes the plain logits."""

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the raised logits."""
        logits = outputs["logits"]
        return {"loss": balanced_softmax_loss(logits, batch["label"], self.counts(logits), self.weights(logits))}
