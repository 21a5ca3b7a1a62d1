"""BCL: contrast in which every class weighs the same in the denominator and has its centre in every batch.

Loss: -log softmax(z + log π)_y + μ · contrast whose denominator averages each class, with the classes' centres

Zhu, Wang, Chen, Chen and Jiang, "Balanced Contrastive Learning for Long-Tailed Visual Recognition", CVPR 2022.
https://arxiv.org/abs/2207.09052. Heads and averages: github.com/FlamieZhu/Balanced-Contrastive-Learning.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.logit_adjustment import adjusted_loss
from lit_modules.longtail.projection import Projection, views_of

VIEWS = 2


def balanced_contrastive_loss(directions: Tensor, label: Tensor, centres: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the balanced supervised contrastive loss of two views, averaged over all 2 B anchors.

    With s_j = a . x_j / temperature over all other directions and all centres, an anchor of class y has the mean over
    the members j of its class, its centre among them, of -s_j + log sum_c mean_{k in c} exp(s_k).

    Args:
        directions: (B, 2, D), of unit length.
        label: (B,).
        centres: (C, D), of unit length, one for each class.
        temperature: of the softmax.
    """
    classes = len(centres)
    anchors = torch.cat(directions.unbind(1))
    anchor_label = label.repeat(2)
    column_label = torch.cat([anchor_label, torch.arange(classes, device=label.device)])
    is_self = torch.eye(len(anchors), len(column_label), dtype=torch.bool, device=label.device)
    similarity = (anchors @ torch.cat([anchors, centres]).T / temperature).masked_fill(is_self, -math.inf)
    is_same = (anchor_label.unsqueeze(1) == column_label) & ~is_self
    # members of the column's class among this anchor's columns: itself is not one of them
    members = torch.bincount(column_label, minlength=classes)[column_label] - (
        anchor_label.unsqueeze(1) == column_label
    ).to(torch.int64)
    log_denominator = torch.logsumexp(similarity - members.to(similarity.dtype).log(), dim=1, keepdim=True)
    log_p = torch.where(is_same, similarity - log_denominator, 0.0)
    return -(log_p.sum(dim=1) / is_same.sum(dim=1)).mean()


class BCL(LongTailModule):
    """Logit-adjusted cross-entropy of the first view, and balanced contrast of the last two.

    With three views the first is the classifier's alone, as published; with two it is contrasted too. Centres are
    projections of the classifier's weights, by a head of their own.

    Args:
        width: of the projections.
        hidden: of the layer between, in both heads; None: as wide as the features.
        temperature: of the contrast.
        classification_weight: of the cross-entropy.
        contrast_weight: of the contrast.

    Raises:
        ValueError: `temperature` is not positive.
        UserError: mixup, class weights, or too few views.
    """

    takes_weights: ClassVar[bool] = False
    takes_mixup: ClassVar[bool] = False

    def __init__(
        self,
        *,
        width: int = 128,
        hidden: int | None = None,
        temperature: float = 0.1,
        classification_weight: float = 1.0,
        contrast_weight: float = 0.35,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise ValueError(f"task.temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.classification_weight = classification_weight
        self.contrast_weight = contrast_weight
        self.projection = Projection(self.backbone.num_features, width, batch_norm=True, hidden=hidden)
        self.centre_projection = Projection(self.backbone.num_features, width, batch_norm=True, hidden=hidden)

    def forward(self, batch: Batch) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C); in training `directions` (B, 2, width) besides."""
        if not self.training:
            return super().forward(batch)
        views = views_of(batch, VIEWS, "BCL")
        features = self.encode({**batch, "image": views.flatten(0, 1)}).unflatten(0, views.shape[:2])
        directions = self.projection(features[-2:].flatten(0, 1)).unflatten(0, (2, -1))
        return {**self.head(features[0]), "directions": directions.transpose(0, 1)}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and its two parts."""
        logits, label = outputs["logits"], batch["label"]
        classification = adjusted_loss(logits, label, self.counts(logits))
        centres = self.centre_projection(self.classifier.weight)
        contrast = balanced_contrastive_loss(outputs["directions"], label, centres, self.temperature)
        return {
            "loss": self.classification_weight * classification + self.contrast_weight * contrast,
            "classification": classification,
            "contrast": contrast,
        }
