"""MDSH: hash centres of a guaranteed minimum distance, a cosine softmax towards them, and pairs of one class together.

Loss: mean BCE(softmax(√K cos(h, c)), y) + w mean over similar pairs of log(1 + e^((1 - cos(h, v))/2)) + λ mean((|h| -
1)²), h = tanh(BN(u))

Wang, Pan, Liu and Zheng, "Deep Hashing with Minimal-Distance-Separated Hash Centers", CVPR 2023.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import full_precision
from lit_modules.hashing.codebook import Codebook
from lit_modules.hashing.greedyhash import quantization_penalty
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import shared_label
from records.notices import RunWarning
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

    The hash layer is the authors' (github.com/Wangld5/Center-Hashing model/Net.py): a linear map, a batch norm and a
    tanh, on whose output all three terms of the loss act. Images of several classes are drawn to all their centres, and
    to images they share a class with. The bank holds the network's own hash values; the published code fills it from a
    second network that follows the first. `accuracy` is that of the nearest centre.

    Args:
        pair_weight: of the pairs of one class.
        quantization_weight: lambda of the paper.
        pair_from_epoch: the pairs count from this epoch on (0-based).
        batch_norm: normalise the linear map's output over the batch, which also balances the bits.
        tanh: bound h to [-1, 1]; without it the quantisation term alone keeps |h| near 1.
        centres: rule of the hash centres, see `Codebook`.
        seed: of the centres.
        shared: arguments of `MemoryBankHashing`.

    Raises:
        ValueError: the epoch is below 0.
    """

    def __init__(
        self,
        *,
        pair_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        pair_from_epoch: int = 9,
        batch_norm: bool = True,
        tanh: bool = True,
        centres: CentreRule = "best",
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if pair_from_epoch < 0:
            raise ValueError(f"task.pair_from_epoch={pair_from_epoch}: epochs are counted from 0")
        self.pair_weight = pair_weight
        self.quantization_weight = quantization_weight
        self.pair_from_epoch = pair_from_epoch
        if batch_norm:
            # the batch norm would take a bias off again
            self.hash_layer.register_parameter("bias", None)
        self.batch_norm = nn.BatchNorm1d(self.bits) if batch_norm else nn.Identity()
        self.bound = nn.Tanh() if tanh else nn.Identity()
        self.codebook = Codebook(self.labels.num_classes, self.bits, seed, centres)

    def on_fit_start(self) -> None:
        """Warn where the run ends before the pairs count."""
        super().on_fit_start()
        epochs = self.trainer.max_epochs
        if epochs is not None and 0 < epochs <= self.pair_from_epoch and self.pair_weight > 0:
            rank_zero_only(warnings.warn)(
                f"the pairs of one class never count in trainer.max_epochs={epochs} with task.pair_from_epoch="
                f"{self.pair_from_epoch}, and without them MDSH is a softmax towards its centres alone; "
                f"task.pair_from_epoch={epochs // 5} lets them count",
                RunWarning,
                stacklevel=2,
            )

    def hash_values(self, features: Tensor) -> Tensor:
        """Return the hash layer's output (B, K) in float32, batch-normed and under tanh as far as asked for."""
        with full_precision(features):
            values: Tensor = self.bound(self.batch_norm(super().hash_values(features)))
        return values

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), and outside of training `logits` (B, C), its cosines with the centres."""
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
