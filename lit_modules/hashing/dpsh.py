"""DPSH: the likelihood of which pairs are similar, by half their inner product, and values pulled to their signs.

Loss: mean(log(1 + e^θ) - s θ) + α mean((h - sign h)²), θ = h·v/2

Li, Wang and Kang, "Feature Learning based Deep Supervised Hashing with Pairwise Labels", IJCAI 2016.
https://cs.nju.edu.cn/lwj/paper/IJCAI16_DPSH.pdf
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.base import Batch
from lit_modules.hashing.base import code_of
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import pair_likelihood, shared_label


def dpsh_loss(h: Tensor, values: Tensor, similar: Tensor, alpha: float) -> dict[str, Tensor]:
    """Return the pairs' negative log-likelihood plus alpha * mean((h - sign h)^2) as `loss`, and its parts.

    The likelihood is sigmoid(h . v / 2); both terms are means, over pairs and over entries, as in
    swuxyj/DeepHash-pytorch. The signs carry no gradient.

    Args:
        h: real (B, K), with gradient.
        values: real (M, K), what h is compared with.
        similar: bool (B, M).
        alpha: weight of the quantisation term.
    """
    likelihood = pair_likelihood(h @ values.T / 2, similar).mean()
    quantization = (h - code_of(h)).square().mean()
    return {"loss": likelihood + alpha * quantization, "likelihood": likelihood, "quantization": quantization}


class DPSH(MemoryBankHashing):
    """DPSH against a memory bank of all training images.

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
        return dpsh_loss(h, values, shared_label(batch["label"], labels), self.alpha)
