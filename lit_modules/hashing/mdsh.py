"""MDSH: hash centres of a guaranteed minimum distance, a cosine softmax towards them, and pairs of one class together.

Loss: mean BCE(softmax(√K cos(h, c)), y) + w mean over similar pairs of log(1 + e^((1 - cos(h, v))/2)) + λ mean((|h| -
1)²)

Wang, Pan, Liu and Zheng, "Deep Hashing with Minimal-Distance-Separated Hash Centers", CVPR 2023.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.codebook import Codebook
from lit_modules.hashing.greedyhash import quantization_penalty
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import shared_label
from retrieval.centres import CentreRule


def centre_loss(cosine: Tensor, label: Tensor, bits: int) -> Tensor:
    """Return the mean over batch and classes of the binary cross-entropy of p = softmax(sqrt(K) cosine).

    cosine (B, C) in [-1, 1] is of the hash values with the centres; label is (B,) or multi-hot (B, C). Classes that a
    sample has count -log p, all others -log(1 - p); p is kept one rounding error below 1.
    """
    log_p = (math.sqrt(bits) * cosine).log_softmax(dim=1)
    log_rest = torch.log(-torch.expm1(log_p.clamp(max=-torch.finfo(log_p.dtype).eps)))
    present = F.one_hot(label, cosine.shape[1]).bool() if label.ndim == 1 else label > 0
    return -torch.where(present, log_p, log_rest).mean()


def positive_pair_loss(h: Tensor, label: Tensor, values: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of log(1 + exp((1 - cos(h_i, v_j)) / 2)) over the pairs that share a class; 0 without any.

    h (B, K) with label, values (N, K) with labels; labels are (B,) and (N,), or multi-hot (B, C) and (N, C).
    """
    cosine = F.normalize(h) @ F.normalize(values).T
    similar = shared_label(label, labels)
    return (F.softplus((1 - cosine) / 2) * similar).sum() / similar.sum().clamp(min=1)


class MDSH(MemoryBankHashing):
    """MDSH, its pairs taken between the batch and the latest hash values of all training images.

    Images of several classes are drawn to all their centres, and to images they share a class with. The bank holds the
    network's own hash values; the published code fills it from a second network that follows the first. From epoch
    `pair_from_epoch` on (0-based) the pairs count. `accuracy` is that of the nearest centre.
    """

    def __init__(
        self,
        *,
        pair_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        pair_from_epoch: int = 0,
        centres: CentreRule = "best",
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.pair_weight = pair_weight
        self.quantization_weight = quantization_weight
        self.pair_from_epoch = pair_from_epoch
        self.codebook = Codebook(self.labels.num_classes, self.bits, seed, centres)

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), unbounded, and outside of training `logits` (B, C), its cosines with the centres."""
        h = self.hash_values(features)
        return {"h": h} if self.training else {"h": h, "logits": self.codebook.cosine(h)}

    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return centre + pair_weight * pair + quantization_weight * mean((|h| - 1)^2) as `loss`, and its parts."""
        centre = centre_loss(self.codebook.cosine(h), batch["label"], self.bits)
        pair = positive_pair_loss(h, batch["label"], values, labels)
        quantization = quantization_penalty(h, power=2)
        pair_weight = self.pair_weight if self.current_epoch >= self.pair_from_epoch else 0.0
        return {
            "loss": centre + pair_weight * pair + self.quantization_weight * quantization,
            "centre": centre,
            "pair": pair,
            "quantization": quantization,
        }
