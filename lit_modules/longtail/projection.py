"""What the contrastive methods share: several views of an image, and projections of unit length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.base import Batch
from lit_modules.precision import PreciseLinear, full_precision, precise_type
from records.errors import UserError


class Projection(nn.Module):
    """A layer, a rectifier and a layer: features (B, D) to directions (B, width) of unit length, in float32.

    The layer between has `hidden` values, D where that is None.
    """

    def __init__(self, num_features: int, width: int, batch_norm: bool = False, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or num_features
        normalisation = [nn.BatchNorm1d(hidden)] if batch_norm else []
        self.layers = nn.Sequential(
            PreciseLinear(num_features, hidden), *normalisation, nn.ReLU(), PreciseLinear(hidden, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return directions (B, width)."""
        precise = precise_type(features, next(self.parameters()))
        with full_precision(features):
            return F.normalize(self.layers(features.to(precise)))


def views_of(batch: Batch, at_least: int, method: str) -> Tensor:
    """Return the views (V, B, 3, H, W) of a training batch.

    Raises:
        UserError: there are fewer than `at_least`, or none, as with cached features.
    """
    found = len(batch["views"]) if "views" in batch else 1
    if found < at_least:
        raise UserError(
            f"data.views={found}: {method} compares augmented views of an image and needs {at_least}; set data.views="
            f"{at_least} (and cache_features=false)"
        )
    return batch["views"]
