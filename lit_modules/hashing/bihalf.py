"""BiHalf: over the batch half of each bit's values become 1 and half -1, so every bit carries as much as it can.

Loss: CE(W b), b = 1 for the upper half of the batch in each bit, else -1; gradient of b plus γ (h - b) / (B K)

Li and van Gemert, "Deep Unsupervised Image Hashing by Maximizing Bit Entropy", AAAI 2021. https://arxiv.org/abs/2012.12334
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, code_of, full_precision
from lit_modules.hashing.greedyhash import classification_loss
from lit_modules.precision import PreciseLinear


class _HalfAndHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gamma: float) -> Tensor:
        order = h.argsort(dim=0, descending=True, stable=True)
        signs = torch.full_like(h, -1.0)
        signs.scatter_(0, order[: len(h) // 2], 1.0)
        ctx.save_for_backward(h, signs)
        ctx.gamma = gamma
        return signs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        h, signs = ctx.saved_tensors
        return gradient + ctx.gamma * (h - signs) / h.numel(), None


def half_and_half(h: Tensor, gamma: float = 6.0) -> Tensor:
    """Return 1 for the floor(B / 2) largest values of each bit in the batch and -1 for the others.

    h (B, K) is real; of equal values the first are taken. The gradient is the upstream one plus
    gamma * (h - sign) / (B K), which draws h to its sign, as in the authors' code.
    """
    signs: Tensor = _HalfAndHalf.apply(h, gamma)
    return signs


class BiHalf(HashingModule):
    """Supervised BiHalf: a linear classifier on the half-and-half codes of the batch.

    An image by itself, outside a training batch, has the signs of h as everywhere. Images of several classes have a
    softmax target spread evenly over them; one without any class counts 0. With `gather_batch` the halves are those of
    the batch of all ranks.

    `gamma` is 6 in CISiP-FIRe, as the authors have it for the unsupervised loss. From random weights that holds the
    codes of the first steps fast: at 32 bits its pull is then twice the classifier's gradient, with 1 a third of it.
    """

    def __init__(self, *, gamma: float = 1.0, classifier_bias: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        self.gamma = gamma
        self.classifier = PreciseLinear(self.bits, self.labels.num_classes, bias=classifier_bias)

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), and outside of training `logits` (B, C) of its signs."""
        h = self.hash_values(features)
        return {"h": h} if self.training else {"h": h, "logits": self.classifier(code_of(h))}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the softmax cross-entropy of the half-and-half codes; gamma's term is in the gradient alone."""
        with full_precision(outputs["h"]):
            logits = self.classifier(half_and_half(outputs["h"], self.gamma))
            return {"loss": classification_loss(logits, batch["label"])}
