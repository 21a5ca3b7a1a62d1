"""OrthoHash: one loss, the cosine softmax with margin of batch-normed hash values against a fixed random codebook.

Loss: CE(s (cos(BN(u), c) - m [own class])), c a fixed random code per class

Hoe, Ng, Zhang, Chan, Song and Xiang, "One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
Objective", NeurIPS 2021. https://arxiv.org/abs/2109.14449
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, code_of, full_precision
from lit_modules.hashing.codebook import Codebook
from lit_modules.hashing.greedyhash import classification_loss
from retrieval.centres import CentreRule

Margin = Literal["cos", "arc"]
Quantization = Literal["cosine", "l1", "l2"]

ARC_LIMIT = 0.99999


def with_margin(cosine: Tensor, label: Tensor, margin: float = 0.2, kind: Margin = "cos") -> Tensor:
    """Return the cosines (B, C) with the margin taken off at each class of the sample.

    `cos` subtracts it from the cosine, `arc` adds it to the angle; there cosines are first clamped to +-0.99999, where
    the angle's gradient would be infinite. label is (B,) or multi-hot (B, C), all of whose classes get the margin.
    """
    positive = F.one_hot(label, cosine.shape[1]) if label.ndim == 1 else label > 0
    offset = margin * positive.to(cosine.dtype)
    if kind == "cos":
        return cosine - offset
    return torch.cos(torch.acos(cosine.clamp(-ARC_LIMIT, ARC_LIMIT)) + offset)


def quantization_error(h: Tensor, kind: Quantization = "cosine") -> Tensor:
    """Return how far h (B, K) is from its signs, which get no gradient: 1 - cosine, or mean |.| (l1) or (.)^2 (l2)."""
    code = code_of(h.detach())
    if kind == "cosine":
        return (1 - F.cosine_similarity(h, code)).mean()
    return (h - code).abs().mean() if kind == "l1" else (h - code).square().mean()


def orthohash_loss(
    cosine: Tensor,
    h: Tensor,
    label: Tensor,
    scale: float = 8.0,
    margin: float = 0.2,
    kind: Margin = "cos",
    quantization_weight: float = 0.0,
    quantization: Quantization = "cosine",
) -> dict[str, Tensor]:
    """Return CE(scale * cosines with margin, label) as `loss`, plus the weighted quantization error where asked for.

    cosine (B, C) in [-1, 1] is of h (B, K) with the codebook; label is (B,), or multi-hot (B, C), whose target is
    spread evenly over its classes; a row without any class counts 0, where the published code gives NaN.
    """
    classification = classification_loss(scale * with_margin(cosine, label, margin, kind), label)
    if quantization_weight == 0:
        return {"loss": classification}
    error = quantization_error(h, quantization)
    return {
        "loss": classification + quantization_weight * error,
        "classification": classification,
        "quantization": error,
    }


class OrthoHash(HashingModule):
    """OrthoHash, its hash layer a linear map without bias and a batch norm, which balances the bits.

    The codebook is fixed: `bernoulli` signs as published, or `best` for centres with the largest minimum distance
    found. `accuracy` is that of the nearest code in the codebook.
    """

    def __init__(
        self,
        *,
        scale: float = 8.0,
        margin: float = 0.2,
        margin_type: Margin = "cos",
        quantization_weight: float = 0.0,
        quantization: Quantization = "cosine",
        centres: CentreRule = "bernoulli",
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.scale = scale
        self.margin = margin
        self.margin_type: Margin = margin_type
        self.quantization_weight = quantization_weight
        self.quantization: Quantization = quantization
        # the batch norm would take a bias off again
        self.hash_layer.register_parameter("bias", None)
        self.batch_norm = nn.BatchNorm1d(self.bits)
        self.codebook = Codebook(self.labels.num_classes, self.bits, seed, centres)

    def hash_values(self, features: Tensor) -> Tensor:
        """Return the batch-normed output (B, K) of the hash layer in float32."""
        with full_precision(features):
            values: Tensor = self.batch_norm(super().hash_values(features))
        return values

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), batch-normed, and `logits` (B, C), its cosines with the codebook."""
        h = self.hash_values(features)
        return {"h": h, "logits": self.codebook.cosine(h)}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the margin softmax, and the quantization error where it has a weight."""
        with full_precision(outputs["h"]):
            return orthohash_loss(
                outputs["logits"],
                outputs["h"],
                batch["label"],
                self.scale,
                self.margin,
                self.margin_type,
                self.quantization_weight,
                self.quantization,
            )
