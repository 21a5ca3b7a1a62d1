"""Logit adjustment: the prior of the classes taken out of the logits, in the loss or after training.

Loss: -log softmax(z + τ log π)_y, or after training the largest z - τ log π

Menon, Jayasumana, Rawat, Jain, Veit and Kumar, "Long-Tail Learning via Logit Adjustment", ICLR 2021.
https://arxiv.org/abs/2007.07314
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.retrained_classifier import EnsembledClassifier

Moment = Literal["train", "post_hoc"]


def adjusted_loss(
    logits: Tensor, label: Tensor, class_counts: Tensor, tau: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Return CE(z + tau log pi, y), logits (B, C), label (B,), class counts (C,) above 0 (eq. 10).

    At tau = 1 it is the balanced softmax; weights are (C,) or None.
    """
    return F.cross_entropy(logits + tau * log_prior(class_counts, logits), label, weights)


def adjusted_scores(logits: Tensor, class_counts: Tensor, tau: float = 1.0) -> Tensor:
    """Return z - tau log pi (B, C) of the logits (B, C) of a network trained by cross-entropy (eq. 9)."""
    return logits - tau * log_prior(class_counts, logits)


class LogitAdjustment(EnsembledClassifier):
    """`train` adjusts the logits of the loss and judges plain ones; `post_hoc` does it the other way round."""

    def __init__(self, *, adjust: Moment = "train", tau: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.adjust = adjust
        self.tau = tau

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy, of adjusted logits where training adjusts them."""
        logits, label = outputs["logits"], batch["label"]
        tau = self.tau if self.adjust == "train" else 0.0
        return {"loss": adjusted_loss(logits, label, self.counts(logits), tau, self.weights(logits))}

    def new_scores(self, outputs: Outputs) -> Tensor:
        """Return the logits, adjusted where training did not do it."""
        logits = outputs["logits"]
        if self.adjust == "train":
            return logits
        return adjusted_scores(logits, self.counts(logits), self.tau)
