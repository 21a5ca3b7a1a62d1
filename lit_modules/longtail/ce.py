"""Softmax cross-entropy, with the class weights of a training rule: the baseline of the field.

Loss: mean of -log softmax(z)_y, weighted by w_y / Σ w where the rule gives weights
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.retrained_classifier import EnsembledClassifier


class CrossEntropy(EnsembledClassifier):
    """Cross-entropy; a weighted mean divides by the sum of the batch's weights, as PyTorch's does."""

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        logits = outputs["logits"]
        return {"loss": F.cross_entropy(logits, batch["label"], self.weights(logits))}
