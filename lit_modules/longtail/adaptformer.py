"""AdaptFormer: small trainable bottlenecks beside the feed-forward part of a frozen vision transformer.

Chen, Ge, Tong, Wang, Song, Wang and Luo, "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition",
NeurIPS 2022. https://arxiv.org/abs/2205.13535. Layer norm, initialisation and learnable scale: github.com/shijxcs/LIFT.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from records.errors import UserError

BLOCKS = {
    "Block": "norm2",  # timm's ViT and BEiT
    "EvaBlock": "norm2",
    "ResidualAttentionBlock": "ln_2",  # open_clip
    "EncoderBlock": "ln_2",  # torchvision
}
"""Classes of transformer blocks x + f(norm(x)), and the name of the norm before their feed-forward part."""


class AdaptFormer(nn.Module):
    """scale * up(relu(down(norm(x)))), added to a block's output, x being what its feed-forward part starts from.

    It begins as zero, so that the block begins as it was trained. (AdaptFormer, eq. 4 and 5.)

    Args:
        width: of the tokens.
        bottleneck: of the hidden layer.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        self._tokens: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (..., D) to what is added to them, (..., D)."""
        change: Tensor = self.up(F.relu(self.down(self.norm(tokens))))
        return change * self.scale

    def attach(self, block: nn.Module, norm: nn.Module) -> None:
        """Work beside `block` from now on: its `norm` says what its feed-forward part starts from.

        The adapter stays outside the block, whose parameters keep their names.
        """
        norm.register_forward_pre_hook(self._remember)
        block.register_forward_hook(self._add)

    def _remember(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._tokens = inputs[0]

    def _add(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens, self._tokens = self._tokens, None
        assert tokens is not None
        return output + self(tokens)


def attach_adapters(network: nn.Module, name: str, num_classes: int, bottleneck: int | None = None) -> nn.ModuleList:
    """Attach an adapter to every transformer block of `network`; return them, in order.

    Args:
        network: a vision transformer.
        name: of the model, for errors.
        num_classes: C, for the default of `bottleneck`.
        bottleneck: width of the hidden layers; None is `default_bottleneck`.

    Raises:
        UserError: the network has no such blocks.
    """
    blocks = [module for module in network.modules() if type(module).__name__ in BLOCKS]
    if not blocks:
        raise UserError(
            f"model={name} has no transformer blocks to put adapters beside; choose a vision transformer: vit_b16, "
            "clip_vit_b16, vit_tiny, or model.architecture=NAME of timm's ViT, DeiT, BEiT or EVA"
        )
    hidden = bottleneck or default_bottleneck(num_classes, len(blocks))
    return nn.ModuleList(_adapter_beside(block, hidden) for block in blocks)


def default_bottleneck(num_classes: int, blocks: int) -> int:
    """Return the power of two below C / (2 blocks), 1 at least: adapters no larger than the classifier (LIFT)."""
    return int(2 ** max(0, int(math.log2(num_classes / (2 * blocks)))))


def _adapter_beside(block: nn.Module, bottleneck: int) -> AdaptFormer:
    norm = cast(nn.Module, getattr(block, BLOCKS[type(block).__name__]))
    adapter = AdaptFormer(len(cast(Tensor, norm.weight)), bottleneck)
    adapter.attach(block, norm)
    return adapter
