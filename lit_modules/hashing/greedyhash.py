"""GreedyHash: classify the signs of the hash layer, and pass the gradient straight through the sign.

Loss: CE(W sign h) + α mean(||h| - 1|³), the gradient of the sign the identity

Su, Zhang, Han and Tian, "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN", NeurIPS 2018.
https://papers.nips.cc/paper/2018/hash/13f3cf8c531952d72e5847c4183e6910-Abstract.html
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.precision import PreciseLinear
from retrieval.codes import to_bits


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return torch.where(to_bits(h), 1.0, -1.0).to(h.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def sign_straight_through(h: Tensor) -> Tensor:
    """Return the signs of h (B, K) as -1 or 1, with the identity as gradient (eq. 10 of the paper); sign(0) is -1."""
    signs: Tensor = _StraightThroughSign.apply(h)
    return signs


def quantization_penalty(h: Tensor, power: float = 3.0) -> Tensor:
    """Return mean(| |h| - 1 |^power) over batch and bits, h (B, K) real (eq. 11; the authors' code takes the mean)."""
    return (h.abs() - 1).abs().pow(power).mean()


def classification_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the softmax cross-entropy of logits (B, C) against class numbers (B,) or multi-hot labels (B, C).

    A multi-hot row is spread evenly over its classes, as CISiP-FIRe does; taking its first class would throw the
    others away. A row without any class has no target and counts 0.
    """
    if label.ndim == 1:
        return F.cross_entropy(logits, label)
    target = label.float() / label.sum(dim=1, keepdim=True).clamp(min=1)
    return F.cross_entropy(logits, target)


def greedyhash_loss(
    logits: Tensor, h: Tensor, label: Tensor, alpha: float = 0.1, power: float = 3.0
) -> dict[str, Tensor]:
    """Return CE(logits, label) + alpha * penalty(h) as `loss`, and its two parts (eq. 11).

    logits (B, C) are of the signs of h (B, K); label is (B,) or multi-hot (B, C).
    """
    classification = classification_loss(logits, label)
    penalty = quantization_penalty(h, power)
    return {
        "loss": classification + alpha * penalty,
        "classification": classification,
        "quantization": penalty,
    }


class GreedyHash(HashingModule):
    """GreedyHash with a linear classifier on the codes.

    `pre_sign` bounds the value before the sign: `none` as published, `tanh`, or `bn` (batch norm); the penalty is
    taken on the value that is fed to the sign. Without a bound the penalty is what keeps |h| small.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        power: float = 3.0,
        pre_sign: Literal["none", "tanh", "bn"] = "none",
        classifier_bias: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.alpha = alpha
        self.power = power
        self.pre_sign = {"none": nn.Identity(), "tanh": nn.Tanh(), "bn": nn.BatchNorm1d(self.bits)}[pre_sign]
        self.classifier = PreciseLinear(self.bits, self.labels.num_classes, bias=classifier_bias)

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in float32, its signs `code` (B, K), and `logits` (B, C) of the signs."""
        with full_precision(features):
            h = self.pre_sign(self.hash_values(features))
            code = sign_straight_through(h)
            return {"h": h, "code": code, "logits": self.classifier(code)}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the paper's eq. 11 and its parts."""
        return greedyhash_loss(outputs["logits"], outputs["h"], batch["label"], self.alpha, self.power)
