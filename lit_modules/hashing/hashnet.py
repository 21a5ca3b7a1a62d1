"""HashNet: the weighted likelihood of which pairs are similar, on tanh(scale h) with a scale that grows over training.

Loss: mean over pairs of w (log(1 + e^(α h·h')) - s α h·h'), h = tanh(β u), β growing by stages; w balances s

Cao, Long, Wang and Yu, "HashNet: Deep Learning to Hash by Continuation", ICCV 2017. https://arxiv.org/abs/1702.00758
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.hashing.similarity import balanced_weights, pair_likelihood, shared_label
from records.notices import RunWarning


def hashnet_loss(h: Tensor, similar: Tensor, alpha: float) -> dict[str, Tensor]:
    """Return the balanced negative log-likelihood of the pairs within a batch, under sigmoid(alpha h . h').

    The mean over all B * B pairs, each image with itself among them, as in swuxyj/DeepHash-pytorch; similar and
    dissimilar pairs count alike.

    Args:
        h: real (B, K) in [-1, 1], with gradient.
        similar: bool (B, B).
        alpha: slope of the sigmoid.
    """
    likelihood = pair_likelihood(alpha * h @ h.T, similar)
    weights = balanced_weights(similar, torch.ones_like(similar), h.dtype)
    return {"loss": (weights * likelihood).mean()}


def continuation_scale(epoch: int, epochs_per_stage: int) -> float:
    """Return the scale in the 0-based `epoch`: sqrt(1 + number of stages done), as in swuxyj/DeepHash-pytorch."""
    return math.sqrt(epoch // epochs_per_stage + 1)


class HashNet(HashingModule):
    """HashNet within the batch; images that share a label are similar, in multi-label data too.

    `h` is tanh(scale * hash layer), so that what is measured and exported is what was trained.

    Args:
        alpha: slope of the sigmoid; None is 10 / bits, as in the authors' pytorch/src/train.py.
        epochs_per_stage: epochs after which the scale grows.
        shared: arguments of `HashingModule`.

    Raises:
        ValueError: a stage is shorter than an epoch.
    """

    scale: Tensor

    def __init__(self, *, alpha: float | None = 0.1, epochs_per_stage: int = 20, **shared: Any) -> None:
        super().__init__(**shared)
        if epochs_per_stage < 1:
            raise ValueError(f"task.epochs_per_stage={epochs_per_stage}: a stage of the scale lasts at least 1 epoch")
        self.alpha = 10 / self.bits if alpha is None else alpha
        self.epochs_per_stage = epochs_per_stage
        self.register_buffer("scale", torch.ones(()))

    def on_fit_start(self) -> None:
        """Warn where the run ends before the scale has grown once."""
        super().on_fit_start()
        epochs = self.trainer.max_epochs
        if epochs is not None and 0 < epochs <= self.epochs_per_stage:
            rank_zero_only(warnings.warn)(
                f"the scale of tanh never grows in trainer.max_epochs={epochs} with task.epochs_per_stage="
                f"{self.epochs_per_stage}, and without it HashNet is a likelihood of pairs alone; "
                f"task.epochs_per_stage={max(epochs // 5, 1)} lets it grow",
                RunWarning,
                stacklevel=2,
            )

    def on_train_epoch_start(self) -> None:
        """Set the scale of this epoch; a buffer keeps it for tests and exports of the checkpoint."""
        self.scale.fill_(continuation_scale(self.current_epoch, self.epochs_per_stage))

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in [-1, 1], the hash layer's output under tanh at the present scale."""
        return {"h": (self.scale * self.hash_values(features)).tanh()}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss under the key `loss`."""
        h = outputs["h"]
        with full_precision(h):
            return hashnet_loss(h, shared_label(batch["label"], batch["label"]), self.alpha)
