"""DTSH: the likelihood that an image is nearer to a similar one than to a dissimilar one, over triplets of the batch.

Loss: mean over triplets of log(1 + e^-(h·p - h·n - α)) + λ mean((h - sign h)²)

Wang, Shi and Kitani, "Deep Supervised Hashing with Triplet Labels", ACCV 2016. https://arxiv.org/abs/1612.03900
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, code_of, full_precision
from lit_modules.hashing.similarity import shared_label


def triplet_likelihood(products: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean over anchors of the mean over their triplets of log(1 + e^-(p - n - margin)), a scalar.

    p and n are an anchor's inner products with a positive and with a negative image. Anchors without both do not
    count; without any anchor the loss is 0.

    Args:
        products: real (B, B), one row per anchor.
        positive: bool (B, B).
        negative: bool (B, B).
        margin: alpha of the paper.
    """
    positives, negatives = positive.sum(dim=1), negative.sum(dim=1)
    anchors = (positives > 0) & (negatives > 0)
    anchor, other = (positive & anchors[:, None]).nonzero(as_tuple=True)
    # a row for each (anchor, positive) pair: with few positives far less than all B * B * B triplets
    triplets = -F.logsigmoid(products[anchor, other][:, None] - products[anchor] - margin)
    count = (positives * negatives * anchors.sum())[anchor, None].to(triplets.dtype)
    return (triplets * negative[anchor] / count).sum()


def dtsh_loss(
    h: Tensor, similar: Tensor, margin: float, quantization_weight: float, anchor_is_positive: bool = False
) -> dict[str, Tensor]:
    """Return the triplet loss plus quantization_weight * mean((h - sign h)^2) as `loss`, and its two parts.

    The inner product is not halved, as in swuxyj/DeepHash-pytorch; the signs carry no gradient.

    Args:
        h: real (B, K), with gradient.
        similar: bool (B, B).
        margin: alpha of the paper, in units of the inner product.
        quantization_weight: lambda of the paper.
        anchor_is_positive: an anchor is among its own positives, as in the published code.
    """
    itself = torch.eye(len(h), dtype=torch.bool, device=h.device)
    positive = similar if anchor_is_positive else similar & ~itself
    triplets = triplet_likelihood(h @ h.T, positive, ~similar & ~itself, margin)
    quantization = (h - code_of(h)).square().mean()
    return {"loss": triplets + quantization_weight * quantization, "triplets": triplets, "quantization": quantization}


class DTSH(HashingModule):
    """DTSH on all triplets of the batch; images that share a label are similar, in multi-label data too.

    A batch with many images of each class makes many triplets: about (images per class) * (batch)^2 floats.

    Args:
        margin: alpha of the paper, in units of the inner product; None is bits, which is the authors' half of the bits
            on half the product (github.com/Minione/DTSH DTSH.m).
        quantization_weight: lambda of the paper.
        anchor_is_positive_as_published: count an anchor among its own positives; by default a triplet has three
            different images.
        shared: arguments of `HashingModule`.
    """

    def __init__(
        self,
        *,
        margin: float | None = 5.0,
        quantization_weight: float = 1.0,
        anchor_is_positive_as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.margin = float(self.bits) if margin is None else margin
        self.quantization_weight = quantization_weight
        self.anchor_is_positive = anchor_is_positive_as_published

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the paper's loss and its parts."""
        h = outputs["h"]
        with full_precision(h):
            similar = shared_label(batch["label"], batch["label"])
            return dtsh_loss(h, similar, self.margin, self.quantization_weight, self.anchor_is_positive)
