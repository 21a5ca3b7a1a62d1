"""IDHN: soft similarity of label sets; a likelihood for pairs that share all or nothing, a square for those between.

Loss: likelihood of α h·v where s is 0 or 1, γ K ((h·v + K)/(2 K) - s)² between, + λ mean(||h| - 1|), s = cosine of
labels

Zhang, Zou, Lin, Chen and Wang, "Improved Deep Hashing with Soft Pairwise Similarity for Multi-label Image Retrieval",
IEEE Transactions on Multimedia 2019. https://arxiv.org/abs/1803.02987
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import label_cosine, pair_likelihood

ALL, NOTHING = 0.99, 0.01
"""From which cosine on two label sets count as equal, and below which as disjoint, as in the authors' code."""


def soft_pair_square(
    product: Tensor, similarity: Tensor, bits: int, alpha: float, on_scaled_product: bool = False
) -> Tensor:
    """Return the squared error of each pair's agreement of codes against its similarity, (B, M).

    K * ((h . v + K) / (2 K) - s)^2, as in the authors' code (github.com/pectinid16/IDHN). With `on_scaled_product`
    it is (alpha h . v + K - 2 s K)^2, as in swuxyj/DeepHash-pytorch, where equal codes do not reach s = 1.
    """
    if on_scaled_product:
        return (alpha * product + bits - 2 * similarity * bits).square()
    return bits * ((product + bits) / (2 * bits) - similarity).square()


def idhn_loss(
    h: Tensor,
    values: Tensor,
    similarity: Tensor,
    alpha: float,
    gamma: float,
    quantization_weight: float,
    square_on_scaled_product: bool = False,
) -> dict[str, Tensor]:
    """Return the pairs' loss plus quantization_weight * mean(| |h| - 1 |) as `loss`, and its parts.

    Pairs with cosine above `ALL` or below `NOTHING` have the negative log-likelihood under sigmoid(alpha h . v), the
    others gamma times `soft_pair_square`; `likelihood` and `square` are their sums over the number of all pairs.

    Args:
        h: real (B, K) in (-1, 1), with gradient.
        values: real (M, K), what h is compared with.
        similarity: cosines (B, M) in [0, 1].
        alpha: slope of the sigmoid.
        gamma: weight of the square.
        quantization_weight: lambda of the paper.
        square_on_scaled_product: see `soft_pair_square`.
    """
    similarity = similarity.to(h.dtype)
    product = h @ values.T
    hard = (similarity > ALL) | (similarity < NOTHING)
    square = gamma * soft_pair_square(product, similarity, h.shape[1], alpha, square_on_scaled_product)
    likelihood = pair_likelihood(alpha * product, similarity).where(hard, 0).mean()
    square = square.where(~hard, 0).mean()
    quantization = (h.abs() - 1).abs().mean()
    loss = likelihood + square + quantization_weight * quantization
    return {"loss": loss, "likelihood": likelihood, "square": square, "quantization": quantization}


class IDHN(MemoryBankHashing):
    """IDHN against a memory bank of all training images.

    In multi-label data the similarity of two images is the cosine of their label rows; with one label per image it is
    1 or 0 and the square has no pairs. `h` is the softsign of the hash layer, and so is what the bank keeps.

    Args:
        alpha: slope of the sigmoid; None is 5 / bits, as in the authors' train.py.
        gamma: weight of the square.
        quantization_weight: lambda of the paper.
        square_on_scaled_product_as_published: see `soft_pair_square`.
        shared: arguments of `MemoryBankHashing`.
    """

    def __init__(
        self,
        *,
        alpha: float | None = 0.5,
        gamma: float = 0.1,
        quantization_weight: float = 0.1,
        square_on_scaled_product_as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.alpha = 5 / self.bits if alpha is None else alpha
        self.gamma = gamma
        self.quantization_weight = quantization_weight
        self.square_on_scaled_product = square_on_scaled_product_as_published

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in (-1, 1), the softsign of the hash layer's output."""
        return {"h": F.softsign(self.hash_values(features))}

    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss of the pairs and of the quantisation, and their parts."""
        similarity = label_cosine(batch["label"], labels)
        return idhn_loss(
            h, values, similarity, self.alpha, self.gamma, self.quantization_weight, self.square_on_scaled_product
        )
