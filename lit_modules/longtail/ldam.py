"""LDAM: a margin for each class, larger for rarer ones; with the rule `drw` its deferred re-weighting.

Loss: -log softmax(s (z - m))_y with cosines z, m_y = K n_y^(-1/4), max m = 0.5, the other margins 0

Cao, Wei, Gaidon, Arechiga and Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
NeurIPS 2019. https://arxiv.org/abs/1906.07413
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.classifier import CosineClassifier
from records.errors import UserError


def class_margins(class_counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """Return the margin (C,) of each class, proportional to n_c^(-1/4), the largest `max_margin`.

    `class_counts` (C,) is of a floating type, above 0.
    """
    margins = class_counts**-0.25
    return margins * (max_margin / margins.max())


def margin_logits(logits: Tensor, label: Tensor, margins: Tensor, scale: float) -> Tensor:
    """Return logits (B, C), already times `scale`, with scale * m_y taken from that of the label (B,)."""
    return logits - scale * margins[label].unsqueeze(1) * F.one_hot(label, logits.shape[1]).to(logits.dtype)


def ldam_loss(
    logits: Tensor, label: Tensor, margins: Tensor, scale: float = 30.0, weights: Tensor | None = None
) -> Tensor:
    """Return CE(s (cos - m_y [c = y]), y) of logits s * cos (B, C), label (B,), margins (C,).

    weights are (C,) or None; the weighted mean divides by the sum of the batch's weights, as in the authors' code.
    """
    return F.cross_entropy(margin_logits(logits, label, margins, scale), label, weights)


class LDAM(LongTailModule):
    """LDAM on cosine logits.

    Raises:
        UserError: another classifier than `cosine`, whose logits a margin of this size would mean nothing to.
    """

    def __init__(self, *, max_margin: float = 0.5, **shared: Any) -> None:
        super().__init__(**shared)
        if not isinstance(self.classifier, CosineClassifier):
            raise UserError(f"task.classifier={self.classifier_kind}: LDAM's margins are cosines; choose cosine")
        if not max_margin > 0:
            raise ValueError(f"task.max_margin must be above 0, not {max_margin}")
        self.max_margin = max_margin
        self.scale = self.classifier.scale

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of logits with margins."""
        logits = outputs["logits"]
        margins = class_margins(self.counts(logits).to(logits), self.max_margin)
        return {"loss": ldam_loss(logits, batch["label"], margins, self.scale, self.weights(logits))}
