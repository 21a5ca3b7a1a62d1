"""Class-balanced loss: weights by the effective number of images, on softmax, sigmoid or focal loss.

Loss: w_y (-log softmax(z)_y), or the sigmoid or focal loss, w_c ∝ (1 - β) / (1 - β^n_c), Σ w = C

Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
https://arxiv.org/abs/1901.05555
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.base import Batch, Outputs
from lit_modules.constant import Constant
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.class_weights import class_weights

LossKind = Literal["softmax", "sigmoid", "focal"]


def sigmoid_loss(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Return mean_i w_{y_i} sum_c BCE(z_ic, [c = y_i]), logits (B, C), label (B,), weights (C,)."""
    one_hot = F.one_hot(label, logits.shape[1]).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    return (weights[label] * entropy.sum(dim=1)).mean()


def sigmoid_focal_loss(logits: Tensor, label: Tensor, weights: Tensor, gamma: float = 2.0) -> Tensor:
    """Return mean_i w_{y_i} sum_c (1 - p^t_ic)^gamma BCE(z_ic, [c = y_i]).

    p^t is the sigmoid of the right answer for class c; logits (B, C), label (B,), weights (C,).
    """
    sign = 2 * F.one_hot(label, logits.shape[1]).to(logits.dtype) - 1
    entropy = -F.logsigmoid(sign * logits)
    # 1 - sigmoid(x) = sigmoid(-x), as a logarithm so that no power of 0 is differentiated
    modulation = (gamma * F.logsigmoid(-sign * logits)).exp()
    return (weights[label] * (modulation * entropy).sum(dim=1)).mean()


class ClassBalanced(LongTailModule):
    """Softmax cross-entropy (a weighted mean), sigmoid or sigmoid focal loss (sums over classes, mean over images).

    The weights sum to C. For the sigmoid losses the bias starts at -log(C - 1) and has no weight decay, so that they
    begin with every class at probability 1 / C, as in the paper.
    """

    takes_weights: ClassVar[bool] = False

    def __init__(
        self, *, loss_kind: LossKind = "softmax", beta: float = 0.9999, gamma: float = 2.0, **shared: Any
    ) -> None:
        super().__init__(**shared)
        if not 0 <= beta < 1:
            raise ValueError(f"task.beta must lie in [0, 1), not {beta}")
        if gamma < 0:
            raise ValueError(f"task.gamma must be 0 or more, not {gamma}")
        self.loss_kind = loss_kind
        self.gamma = gamma
        self._effective = Constant(class_weights(torch.tensor(self.labels.class_counts), "effective", beta))
        if loss_kind != "softmax":
            self._start_at_even_odds()

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss."""
        logits, label = outputs["logits"], batch["label"]
        weights = self._effective.on(logits.device).to(logits.dtype)
        if self.loss_kind == "softmax":
            return {"loss": F.cross_entropy(logits, label, weights)}
        if self.loss_kind == "sigmoid":
            return {"loss": sigmoid_loss(logits, label, weights)}
        return {"loss": sigmoid_focal_loss(logits, label, weights, self.gamma)}

    def no_weight_decay(self) -> set[str]:
        """Return the bias of the sigmoid losses."""
        is_spared = self.loss_kind != "softmax" and isinstance(self.classifier, nn.Linear)
        return {"classifier.bias"} if is_spared else set()

    def _start_at_even_odds(self) -> None:
        if not isinstance(self.classifier, nn.Linear):
            raise ValueError(
                f"task.loss_kind={self.loss_kind}: sigmoids start at even odds by a bias, and task.classifier=cosine "
                "has none; choose task.classifier=linear, or task.loss_kind=softmax"
            )
        nn.init.constant_(self.classifier.bias, -math.log(max(self.labels.num_classes - 1, 1)))
