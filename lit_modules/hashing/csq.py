"""CSQ: each bit is a binary classification towards the bit of the class's hash centre.

Loss: mean BCE((tanh u + 1) / 2, (c_y + 1) / 2) + λ mean((|tanh u| - 1)²), c a hash centre per class

Yuan et al., "Central Similarity Quantization for Efficient Image and Video Retrieval", CVPR 2020.
https://arxiv.org/abs/1908.00347
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.hashing.codebook import Codebook
from lit_modules.hashing.greedyhash import quantization_penalty
from retrieval.centres import CentreRule


def central_similarity(u: Tensor, centre: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of (tanh u + 1) / 2 against (centre + 1) / 2 over batch and bits.

    u (B, K) is real, centre (B, K) is -1 or 1; a row of zeros has no centre and counts 0. Since (tanh u + 1) / 2 is
    sigmoid(2 u), the logarithm is taken of no number that could round to zero.
    """
    return (centre.abs() * F.softplus(-2 * centre * u)).mean()


def csq_loss(u: Tensor, centre: Tensor, quantization_weight: float = 1e-4) -> dict[str, Tensor]:
    """Return central similarity + weight * mean((|tanh u| - 1)^2) as `loss`, and its two parts.

    u (B, K) is real, before the tanh; centre (B, K) is as in `central_similarity`. The code behind the published
    figures takes the squared distance where the paper has log cosh.
    """
    central = central_similarity(u, centre)
    quantization = quantization_penalty(u.tanh(), power=2)
    return {"loss": central + quantization_weight * quantization, "central": central, "quantization": quantization}


class CSQ(HashingModule):
    """CSQ with a fixed centre for each class, for any number of bits and classes.

    Images of several classes are drawn to the majority vote of their centres, ties broken by one random code, as
    published; an image without any class has no centre, where the published code draws it to the random code.
    `accuracy` is that of the nearest centre.
    """

    def __init__(
        self, *, quantization_weight: float = 1e-4, centres: CentreRule = "best", seed: int = 0, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.quantization_weight = quantization_weight
        self.codebook = Codebook(self.labels.num_classes, self.bits, seed, centres)

    def head(self, features: Tensor) -> Outputs:
        """Return `u` (B, K), `h` = tanh(u), and `logits` (B, C), the cosines of h with the centres."""
        u = self.hash_values(features)
        h = u.tanh()
        return {"u": u, "h": h, "logits": self.codebook.cosine(h)}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return central similarity with the quantization penalty, and its parts."""
        with full_precision(outputs["u"]):
            return csq_loss(outputs["u"], self.codebook(batch["label"]), self.quantization_weight)
