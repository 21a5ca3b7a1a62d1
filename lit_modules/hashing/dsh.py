"""DSH: draw similar images together, push dissimilar ones apart up to a margin, in squared Euclidean distance.

Loss: mean(s d/2 + (1 - s) max(0, m - d)/2) + α mean(||h| - 1|), d = |h - v|², m = 2 K

Liu, Wang, Shan and Chen, "Deep Supervised Hashing for Fast Image Retrieval", CVPR 2016.
https://www.cv-foundation.org/openaccess/content_cvpr_2016/papers/Liu_Deep_Supervised_Hashing_CVPR_2016_paper.pdf
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.base import Batch
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import shared_label


def squared_distances(h: Tensor, values: Tensor) -> Tensor:
    """Return the squared distances (B, M) of h (B, K) and values (M, K), without their (B, M, K) differences."""
    return h.square().sum(dim=1, keepdim=True) + values.square().sum(dim=1) - 2 * h @ values.T


def dsh_loss(h: Tensor, values: Tensor, similar: Tensor, alpha: float, margin: float) -> dict[str, Tensor]:
    """Return the contrastive loss plus alpha * mean(| |h| - 1 |) as `loss`, and its two parts.

    A similar pair costs d / 2, a dissimilar one max(0, margin - d) / 2, with d the squared distance; both terms are
    means, over pairs and over entries, as in swuxyj/DeepHash-pytorch.

    Args:
        h: real (B, K), with gradient.
        values: real (M, K), what h is compared with.
        similar: bool (B, M).
        alpha: weight of the regulariser.
        margin: in squared distance; 2 K in the paper, half of the greatest distance of two codes.
    """
    distance = squared_distances(h, values)
    contrastive = (distance.where(similar, (margin - distance).clamp(min=0)) / 2).mean()
    quantization = (h.abs() - 1).abs().mean()
    return {"loss": contrastive + alpha * quantization, "contrastive": contrastive, "quantization": quantization}


class DSH(MemoryBankHashing):
    """DSH against a memory bank of all training images.

    Images that share a label are similar, in multi-label data too.

    Args:
        alpha: weight of the regulariser.
        margin: of dissimilar pairs, in squared distance; None is 2 * bits, as in the paper.
        shared: arguments of `MemoryBankHashing`.
    """

    def __init__(self, *, alpha: float = 0.1, margin: float | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.alpha = alpha
        self.margin = 2.0 * self.bits if margin is None else margin

    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the paper's loss and its parts."""
        return dsh_loss(h, values, shared_label(batch["label"], labels), self.alpha, self.margin)
