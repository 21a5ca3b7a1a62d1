"""What a network tells about itself before it is wrapped into a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# CIFAR-10's channel statistics, as the CIFAR ResNets of the field normalise with.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)

# A rule of timm's group_matcher kind: group name to a regular expression over parameter names.
GroupMatcher = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkDescription:
    """A network without classifier and the facts its wrapper needs.

    `network` maps normalised images (B, 3, image_size, image_size) to features (B, num_features);
    `fixed_size` says that no other image size passes through it; `mean` and `std` are per channel, for pixels
    in [0, 1]; `group_matcher` maps parameter names to depths (None: the order of the parameters decides).
    """

    network: nn.Module
    num_features: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed_size: bool
    group_matcher: GroupMatcher | None
