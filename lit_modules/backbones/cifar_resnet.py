"""Residual networks for 32 x 32 images (He et al., Deep Residual Learning, CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.experts import ExpertNetwork, PoolAndFlatten

# Depth is 6n + 2: three stages of n blocks with two convolutions each, the first convolution and the classifier.
BLOCKS_PER_STAGE = {"cifar_resnet20": 3, "cifar_resnet32": 5, "cifar_resnet44": 7, "cifar_resnet56": 9}


# Shared: stem.3 is layer1, by blocks; an expert's: branches.EXPERT.STAGE.BLOCK.
EXPERT_DEPTHS = {
    "stem": r"^stem\.[01]\.",
    "shared": r"^stem\.3\.(\d+)",
    "experts": r"^branches\.\d+\.(\d+)\.(\d+)",
}


class PadShortcut(nn.Module):
    """Shortcut of option A: every second pixel, and zero channels padded evenly on both sides; no parameters.

    (B, C_in, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        before = (channels_out - channels_in) // 2
        self.padding = (0, 0, 0, 0, before, channels_out - channels_in - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, ceil(H / 2), ceil(W / 2))."""
        return F.pad(x[:, :, ::2, ::2], self.padding)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else PadShortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(residual)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6 n + 2, pooled, without its classifier: (B, 3, H, W) -> (B, 4 width).

    `blocks_per_stage` is n; `width` is the channel count of the first stage (16 as published), doubled at
    each of the two strided stages. Kaiming initialisation in the convolutions. Parameter names are those of
    the widely used CIFAR ResNet checkpoints (conv1, bn1, layer1.0.conv1, ...).
    """

    def __init__(self, blocks_per_stage: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks_per_stage, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks_per_stage, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks_per_stage, stride=2)
        self.num_features = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, 4 width)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Rule for depths: the first convolution, then stage by stage (`coarse`) or block by block."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def cifar_resnet_experts(
    blocks_per_stage: int, width: int, experts: int, reduce_dimension: bool = False
) -> ExpertNetwork:
    """Build experts that share the first convolution and layer1, and have a layer2 and a layer3 each.

    `reduce_dimension` gives the two strided stages three quarters of their channels (24 and 48 at width 16), so that
    three experts cost less than twice one network (github.com/frank-xwang/RIDE-LongTailRecognition).
    """
    stem = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _stage(width, width, blocks_per_stage, stride=1),
    )
    middle, last = (3 * width // 2, 3 * width) if reduce_dimension else (2 * width, 4 * width)
    branches = [
        nn.Sequential(
            _stage(width, middle, blocks_per_stage, stride=2),
            _stage(middle, last, blocks_per_stage, stride=2),
            PoolAndFlatten(),
        )
        for _ in range(experts)
    ]
    network = ExpertNetwork(stem, branches, last, EXPERT_DEPTHS)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))
