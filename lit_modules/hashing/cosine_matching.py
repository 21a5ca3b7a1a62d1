"""Codes that keep the cosines of features: what the unsupervised methods share."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.base import Outputs
from lit_modules.hashing.frozen_features import FrozenFeatures

FeatureSimilarity = Literal["centred_cosine", "published_uncentred_cosine"]


def cosine_matching(code: Tensor, features: Tensor) -> Tensor:
    """Return the mean squared difference of cos(b_i, b_j) and cos(x_i, x_j), where j = i + B / 2.

    code (B, K) and features (B, D) are real, B at least 2; features get no gradient. Of an odd batch the last sample
    has no partner. Su et al., GreedyHash, NeurIPS 2018, as in the authors' unsupervised_vgg.py.

    Raises:
        ValueError: a batch of one sample.
    """
    half = len(code) // 2
    if half == 0:
        raise ValueError("a batch of one image has no pair: data.batch_size must be at least 2")
    of_codes = F.cosine_similarity(code[:half], code[half : 2 * half])
    of_features = F.cosine_similarity(features[:half], features[half : 2 * half])
    return F.mse_loss(of_codes, of_features.detach())


class RunningMean(nn.Module):
    """The mean of all rows seen in training, as buffers; `forward` takes it off.

    Args:
        width: D.
    """

    mean: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, rows: Tensor) -> Tensor:
        """Count rows (B, D) in and return them less the mean of all so far, these included."""
        self.count += len(rows)
        self.mean += (rows.detach() - self.mean).sum(dim=0) / self.count
        return rows - self.mean


class CosineMatching(FrozenFeatures):
    """What an unsupervised method needs: hash values, and features whose cosines have the range of codes' cosines.

    Features after a ReLU have no negative entry, so their cosines lie in [0, 1] where those of codes lie in [-1, 1]:
    `centred_cosine` takes the training images' mean off first, `published_uncentred_cosine` leaves them as they are, as
    behind the published figures.
    """

    def __init__(self, *, similarity: FeatureSimilarity = "centred_cosine", **shared: Any) -> None:
        super().__init__(**shared)
        self.centre = RunningMean(self.backbone.num_features) if similarity == "centred_cosine" else nn.Identity()

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in float32, and in training the `features` (B, D) that the loss compares."""
        h = self.hash_values(features)
        return {"h": h, "features": features.float()} if self.training else {"h": h}
