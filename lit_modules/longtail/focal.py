"""Focal loss: what is classified well already counts less.

Loss: mean of (1 - p_y)^γ (-log p_y), p = softmax(z)

Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017. https://arxiv.org/abs/1708.02002
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule

Probability = Literal["unweighted", "weighted"]


def focal_loss(
    logits: Tensor,
    label: Tensor,
    gamma: float = 1.0,
    weights: Tensor | None = None,
    detach: bool = False,
    probability: Probability = "unweighted",
) -> Tensor:
    """Return mean_i w_{y_i} (1 - p_i)^gamma (-log p_i), p_i the softmax probability of the label (eq. 4).

    Args:
        logits: (B, C).
        label: (B,).
        gamma: 0 gives the cross-entropy divided by the batch size.
        weights: (C,); None for 1.
        detach: (1 - p)^gamma gets no gradient (github.com/juyongjiang/FBL loss.py).
        probability: `weighted` takes p = exp(-w * CE) as github.com/kaidic/LDAM-DRW losses.py does, which is no
            probability of the label once there are weights.
    """
    entropy = F.cross_entropy(logits, label, reduction="none")
    weighted = entropy if weights is None else weights[label] * entropy
    log_p = -(weighted if probability == "weighted" else entropy)
    # -expm1 keeps the digits of 1 - p where p is near 1; a power below 1 has no finite slope at 0
    modulation = (-log_p.expm1()).clamp(min=torch.finfo(logits.dtype).tiny) ** gamma
    return ((modulation.detach() if detach else modulation) * weighted).mean()


class Focal(LongTailModule):
    """Focal loss, with the class weights of a training rule; see `focal_loss`."""

    def __init__(
        self, *, gamma: float = 1.0, detach: bool = False, probability: Probability = "unweighted", **shared: Any
    ) -> None:
        super().__init__(**shared)
        if gamma < 0:
            raise ValueError(f"task.gamma must be 0 or more, not {gamma}")
        self.gamma = gamma
        self.detach = detach
        self.probability: Probability = probability

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the focal loss."""
        logits = outputs["logits"]
        weights = self.weights(logits)
        return {"loss": focal_loss(logits, batch["label"], self.gamma, weights, self.detach, self.probability)}
