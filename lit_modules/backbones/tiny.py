"""A small convolutional network for 32 x 32 images: the backbone of the quick start and of the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.experts import ExpertNetwork, PoolAndFlatten


class TinyConvNet(nn.Module):
    """Three stages of convolution, batch normalisation and ReLU: (B, 3, H, W) -> (B, 4 width), H, W >= 4.

    Channels are width, 2 width and 4 width; each of the first two stages halves the image by max pooling, the
    last one is averaged over the image. 93 thousand parameters at the default width of 32.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stage1 = _stage(3, width)
        self.stage2 = _stage(width, 2 * width)
        self.stage3 = _stage(2 * width, 4 * width)
        self.num_features = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, 4 width)."""
        x = F.max_pool2d(self.stage1(images), 2)
        x = F.max_pool2d(self.stage2(x), 2)
        return torch.flatten(F.adaptive_avg_pool2d(self.stage3(x), 1), 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Depth of each parameter: its stage."""
        return {"stages": r"^stage(\d+)"}


def tiny_experts(width: int, experts: int, reduce_dimension: bool = False) -> ExpertNetwork:
    """Build experts that share the first stage and have the other two each.

    `reduce_dimension` gives those two three quarters of their channels.
    """
    middle, last = (3 * width // 2, 3 * width) if reduce_dimension else (2 * width, 4 * width)
    branches = [
        nn.Sequential(_stage(width, middle), nn.MaxPool2d(2), _stage(middle, last), PoolAndFlatten())
        for _ in range(experts)
    ]
    stem = nn.Sequential(_stage(3, width), nn.MaxPool2d(2))
    return ExpertNetwork(stem, branches, last, {"stem": r"^stem", "experts": r"^branches\.\d+\.(\d+)"})


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
