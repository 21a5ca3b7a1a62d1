"""DHN: the likelihood of which pairs are similar, by half their inner product, and a smooth pull of |h| to 1.

Loss: mean(log(1 + e^θ) - s θ) + α mean log cosh(|h| - 1), θ = h·v/2

Zhu, Long, Wang and Cao, "Deep Hashing Network for Efficient Similarity Retrieval", AAAI 2016.
http://ise.thss.tsinghua.edu.cn/~mlong/doc/deep-hashing-network-aaai16.pdf
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import pair_likelihood, shared_label


def log_cosh(x: Tensor) -> Tensor:
    """Return log(cosh(x)) for x of any shape, also where cosh itself overflows."""
    # log cosh x = x + log(1 + e^(-2x)) - log 2: no branch at 0, and the logarithm of the sigmoid is exact for any x
    return x - F.logsigmoid(2 * x) - math.log(2)


def dhn_loss(h: Tensor, values: Tensor, similar: Tensor, alpha: float) -> dict[str, Tensor]:
    """Return the pairs' negative log-likelihood plus alpha * mean(log cosh(|h| - 1)) as `loss`, and its parts.

    The likelihood is sigmoid(h . v / 2); both terms are means, over pairs and over entries, as in
    swuxyj/DeepHash-pytorch.

    Args:
        h: real (B, K), with gradient.
        values: real (M, K), what h is compared with.
        similar: bool (B, M).
        alpha: weight of the quantisation term.
    """
    likelihood = pair_likelihood(h @ values.T / 2, similar).mean()
    quantization = log_cosh(h.abs() - 1).mean()
    return {"loss": likelihood + alpha * quantization, "likelihood": likelihood, "quantization": quantization}


class DHN(MemoryBankHashing):
    """DHN against a memory bank of all training images.

    Images that share a label are similar, in multi-label data too.

    Args:
        alpha: weight of the quantisation term.
        shared: arguments of `MemoryBankHashing`.
    """

    def __init__(self, *, alpha: float = 0.1, **shared: Any) -> None:
        super().__init__(**shared)
        self.alpha = alpha

    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the paper's loss and its parts."""
        return dhn_loss(h, values, shared_label(batch["label"], labels), self.alpha)
