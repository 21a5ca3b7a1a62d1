"""Several experts in one network: the first layers are shared, the rest is one branch per expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ExpertNetwork(nn.Module):
    """A shared stem and branches of equal shape: (B, 3, H, W) -> (B, experts * D), expert after expert.

    (Wang et al., "Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR 2021.)

    Args:
        stem: images to feature maps.
        branches: one per expert, feature maps to features (B, D).
        num_features: D, of one expert.
        group_matcher: depth of the parameters, as timm's models say it.
    """

    def __init__(
        self, stem: nn.Module, branches: Sequence[nn.Module], num_features: int, group_matcher: dict[str, Any]
    ) -> None:
        super().__init__()
        self.stem = stem
        self.branches = nn.ModuleList(branches)
        self.experts = len(branches)
        self.num_features = len(branches) * num_features
        self._group_matcher = group_matcher

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to the features of all experts (B, experts * D)."""
        maps = self.stem(images)
        return torch.cat([branch(maps) for branch in self.branches], dim=1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Depth of each parameter; the experts' layers of one depth are one group."""
        return self._group_matcher


class PoolAndFlatten(nn.Module):
    """Mean over the image: (B, C, H, W) -> (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the mean over height and width."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)
