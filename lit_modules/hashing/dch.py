"""DCH: a Cauchy likelihood of similar pairs that rewards small Hamming distances, and a Cauchy quantisation term.

Loss: mean over pairs of w (s log(1 + d/γ) + (1 - s) log(1 + γ/d)) + λ mean log(1 + d(|h|, 1)/γ), d = K/2 (1 - cos)

Cao, Long, Liu and Wang, "Deep Cauchy Hashing for Hamming Space Retrieval", CVPR 2018.
http://ise.thss.tsinghua.edu.cn/~mlong/doc/deep-cauchy-hashing-cvpr18.pdf
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.hashing.similarity import balanced_weights, shared_label

NEAREST = 0.01
"""Added to 1 - cosine of dissimilar pairs, whose loss has no bound at cosine 1; the published code cuts at .99."""


def half_cosine_distance(cosine: Tensor, bits: int) -> Tensor:
    """Return bits / 2 * (1 - cosine), the Hamming distance of codes with that cosine (eq. 6); cosine of any shape."""
    return bits / 2 * (1 - cosine)


def cauchy_pairs(cosine: Tensor, similar: Tensor, bits: int, gamma: float, cosine_clamp: float | None) -> Tensor:
    """Return the negative log-likelihood of each pair under gamma / (gamma + d), (B, B) (eq. 8).

    log(1 + d / gamma) for similar pairs, log(1 + gamma / d) for dissimilar ones. The published code clamps the cosine
    from above, which takes the gradient from the pairs that are nearest; `NEAREST` bounds the loss and keeps it.
    """
    nearest = NEAREST if cosine_clamp is None else 0.0
    cosine = cosine if cosine_clamp is None else cosine.clamp(max=cosine_clamp)
    attraction = torch.log1p(half_cosine_distance(cosine, bits) / gamma)
    repulsion = torch.log1p(gamma / half_cosine_distance(cosine - nearest, bits))
    return attraction.where(similar, repulsion)


def dch_loss(
    h: Tensor,
    similar: Tensor,
    gamma: float,
    quantization_weight: float,
    self_pairs: bool = False,
    cosine_clamp: float | None = None,
) -> dict[str, Tensor]:
    """Return the balanced Cauchy loss of the pairs plus the weighted Cauchy quantisation term, and both (eq. 7).

    Means over the pairs that count and over the batch.

    Args:
        h: real (B, K), with gradient.
        similar: bool (B, B).
        gamma: scale of the Cauchy distribution, in bits.
        quantization_weight: lambda of the paper.
        self_pairs: an image's pair with itself counts, as in the published code; it has no gradient.
        cosine_clamp: upper bound of cosines, .99 in the published code; None for no bound.
    """
    bits = h.shape[1]
    unit = F.normalize(h)
    pairs = torch.ones_like(similar) if self_pairs else ~torch.eye(len(h), dtype=torch.bool, device=h.device)
    losses = cauchy_pairs(unit @ unit.T, similar, bits, gamma, cosine_clamp)
    pairwise = (balanced_weights(similar, pairs, h.dtype) * losses).sum() / pairs.sum().clamp(min=1)
    to_corner = unit.abs().sum(dim=1) / bits**0.5
    if cosine_clamp is not None:
        to_corner = to_corner.clamp(max=cosine_clamp)
    quantization = torch.log1p(half_cosine_distance(to_corner, bits) / gamma).mean()
    return {"loss": pairwise + quantization_weight * quantization, "pairs": pairwise, "quantization": quantization}


class DCH(HashingModule):
    """DCH within the batch; images that share a label are similar, in multi-label data too.

    Args:
        gamma: scale of the Cauchy distribution, in bits.
        quantization_weight: lambda of the paper.
        self_pairs_as_published: count each image's pair with itself.
        cosine_clamp_as_published: cut cosines at this value (.99 in the published code), without gradient beyond.
        shared: arguments of `HashingModule`.
    """

    def __init__(
        self,
        *,
        gamma: float = 20.0,
        quantization_weight: float = 0.1,
        self_pairs_as_published: bool = False,
        cosine_clamp_as_published: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.gamma = gamma
        self.quantization_weight = quantization_weight
        self.self_pairs = self_pairs_as_published
        self.cosine_clamp = cosine_clamp_as_published

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the paper's eq. 7 and its parts."""
        h = outputs["h"]
        with full_precision(h):
            similar = shared_label(batch["label"], batch["label"])
            return dch_loss(h, similar, self.gamma, self.quantization_weight, self.self_pairs, self.cosine_clamp)
