"""Unsupervised GreedyHash: the signs of the hash layer keep the cosines of pairs of images.

Loss: mean((cos(sign h_i, sign h_j) - cos(x_i, x_j))²) + α mean(||h| - 1|³), x the features

Su, Zhang, Han and Tian, "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN", NeurIPS 2018.
https://papers.nips.cc/paper/2018/hash/13f3cf8c531952d72e5847c4183e6910-Abstract.html
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import full_precision
from lit_modules.hashing.cosine_matching import CosineMatching, cosine_matching
from lit_modules.hashing.greedyhash import quantization_penalty, sign_straight_through


def greedyhash_unsup_loss(h: Tensor, features: Tensor, alpha: float = 0.1, power: float = 3.0) -> dict[str, Tensor]:
    """Return cosine matching of sign(h) with features + alpha * mean(| |h| - 1 |^power) as `loss`, and its parts.

    h (B, K) and features (B, D), B at least 2. Of an odd batch the last sample counts in the penalty alone.
    """
    matching = cosine_matching(sign_straight_through(h), features)
    penalty = quantization_penalty(h, power)
    return {"loss": matching + alpha * penalty, "matching": matching, "quantization": penalty}


class GreedyHashUnsup(CosineMatching):
    """Unsupervised GreedyHash on a frozen backbone. No label is used, so labels of any kind will do."""

    def __init__(self, *, alpha: float = 0.1, power: float = 3.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.alpha = alpha
        self.power = power

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the matching of cosines with the penalty of the supervised method."""
        with full_precision(outputs["h"]):
            return greedyhash_unsup_loss(outputs["h"], self.centre(outputs["features"]), self.alpha, self.power)
