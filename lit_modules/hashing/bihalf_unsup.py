"""Unsupervised BiHalf: the half-and-half codes of a batch keep the cosines of pairs of images.

Loss: mean((cos(b_i, b_j) - cos(x_i, x_j))²), b as in supervised BiHalf; gradient of b plus γ (h - b) / (B K)

Li and van Gemert, "Deep Unsupervised Image Hashing by Maximizing Bit Entropy", AAAI 2021. https://arxiv.org/abs/2012.12334
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import full_precision
from lit_modules.hashing.bihalf import half_and_half
from lit_modules.hashing.cosine_matching import CosineMatching, cosine_matching


class BiHalfUnsup(CosineMatching):
    """Unsupervised BiHalf on a frozen backbone. No label is used, so labels of any kind will do.

    With `gather_batch` the halves and the pairs are those of the batch of all ranks.
    """

    def __init__(self, *, gamma: float = 6.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.gamma = gamma

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the matching of cosines; there is no penalty, gamma's term is in the gradient alone."""
        with full_precision(outputs["h"]):
            code = half_and_half(outputs["h"], self.gamma)
            return {"loss": cosine_matching(code, self.centre(outputs["features"]))}
