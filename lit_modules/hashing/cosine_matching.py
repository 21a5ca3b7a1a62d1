"""Codes that keep the cosines of features: what the unsupervised methods share."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, Outputs
from lit_modules.hashing.frozen_features import FrozenFeatures
from records.errors import UserError

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


def dropouts_of(backbone: Backbone) -> list[nn.Dropout]:
    """Return the dropouts in a backbone, in the order of its modules.

    Raises:
        UserError: it has none.
    """
    dropouts = [module for module in backbone.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if not dropouts:
        raise UserError(
            f"task.dropout_as_published=true: model={backbone.name} has no dropout; choose model=vgg16, whose dropout "
            "the published code leaves on, or false"
        )
    return dropouts


class CosineMatching(FrozenFeatures):
    """What an unsupervised method needs: hash values, and features whose cosines have the range of codes' cosines.

    Features after a ReLU have no negative entry, so their cosines lie in [0, 1] where those of codes lie in [-1, 1].
    The code behind the published figures leaves them so, and leaves VGG-16 in training mode besides: a dropout between
    its two fully connected layers and one after them act on the features, which the hash layer and the target share
    (github.com/ssppp/GreedyHash unsupervised_vgg.py, github.com/liyunqianggyn/Deep-Unsupervised-Image-Hashing
    ImageHashing/Cifar10_I.py). Both options together are the published target.

    Args:
        similarity: `centred_cosine` takes the training images' mean off the features first,
            `published_uncentred_cosine` leaves them as they are.
        dropout_as_published: in training the backbone's own dropouts act, and one of the last one's rate on the
            features; by default the features of an image are the same in every epoch.
        shared: arguments of `HashingModule`.

    Raises:
        UserError: dropout is asked for, and the backbone has none, or the features come from a cache.
    """

    def __init__(
        self,
        *,
        similarity: FeatureSimilarity = "centred_cosine",
        dropout_as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.centre = RunningMean(self.backbone.num_features) if similarity == "centred_cosine" else nn.Identity()
        self._dropouts = dropouts_of(self.backbone) if dropout_as_published else []

    def encode(self, batch: Batch) -> Tensor:
        """Return features (B, D) of the batch, in training under dropout where it is asked for."""
        if not (self.training and self._dropouts):
            return super().encode(batch)
        if "feature" in batch:
            raise UserError(
                "task.dropout_as_published=true with cache_features=true: features computed once have no dropout "
                "between the backbone's layers; set one of them to false"
            )
        for dropout in self._dropouts:
            dropout.train()
        features = super().encode(batch)
        for dropout in self._dropouts:
            dropout.eval()
        return F.dropout(features, self._dropouts[-1].p)

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in float32, and in training the `features` (B, D) that the loss compares."""
        h = self.hash_values(features)
        return {"h": h, "features": features.float()} if self.training else {"h": h}
