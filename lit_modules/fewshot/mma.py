"""MMA: adapters beside the upper layers of both encoders, which meet in a projection that they share.

Loss: -log softmax(100 f·t)_y, adapters with a projection that both encoders share trained

Yang et al., "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024, equations 4 to 7. What an adapter reads,
how it starts, and that its scale does not shorten its gradients, are as in the authors' code
(ZjjConan/VLM-MultiModalAdapter @ c3d0bc2: clip/model.py, clip/gsl.py, trainers/mmadapter.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.clip_training import ClipTraining, transformer_blocks
from lit_modules.fewshot.head import LOGIT_SCALE, count, positive
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from records.errors import UserError


class SharedProjection(nn.Module):
    """The bottleneck's own layer, (..., d) -> (..., d), the same for images and text: ReLU(W x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Project x (..., d)."""
        return F.relu(self.linear(x))


class _Scaled(torch.autograd.Function):
    """x times one factor, whose gradient is multiplied by another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, gradient_factor: float) -> Tensor:
        ctx.gradient_factor = gradient_factor
        return x * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.gradient_factor, None, None


class Adapter(nn.Module):
    """scale * up(shared(ReLU(down(x)))), (..., D) -> (..., D), added to what a block makes.

    Its parameters learn as if the scale were 1: their gradients are those of the formula divided by scale. The gradient
    that goes on to x is the formula's own.

    Args:
        width: D of the encoder.
        shared: the projection that both encoders use at this depth; belongs to the task, not to the adapter.
        bottleneck: d.
        scale: factor on the result.
    """

    def __init__(self, width: int, shared: SharedProjection, bottleneck: int, scale: float) -> None:
        super().__init__()
        self.down = _linear(width, bottleneck)
        self.up = _linear(bottleneck, width)
        self.shared = shared
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added, for a block's input (..., D) after the block's first layer norm."""
        # the scale leaves the gradient on its way in and joins it on its way out, behind the parameters
        seen: Tensor = _Scaled.apply(x, 1.0, self.scale)
        change: Tensor = self.up(self.shared(F.relu(self.down(seen))))
        added: Tensor = _Scaled.apply(change, self.scale, 1.0)
        return added

    def add_to_block(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Add to a block's output: a forward hook."""
        return output + self(block.ln_1(inputs[0]))  # type: ignore[operator]


class MultiModalAdapter(ClipTraining):
    """Adapters in the layers from `first_layer` on, counted from 1, of both encoders; nothing else is trained.

    Where the encoders have different numbers of layers, the last ones of both go together.

    Args:
        first_layer: first layer of the image encoder that has an adapter.
        bottleneck: width of the shared projection.
        adapter_scale: factor on what the adapters add.
        scale: see `ClipTraining`.

    Raises:
        UserError: encoders that are no transformers, or not as many layers.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        first_layer: int = 5,
        bottleneck: int = 32,
        adapter_scale: float = 0.001,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__(backbone, labels, optimization, metric, scale)
        count("bottleneck", bottleneck)
        positive("adapter_scale", adapter_scale)
        image = transformer_blocks(self.towers.visual, "image")
        text = transformer_blocks(self.towers.text_tower, "text")
        number = len(image) - first_layer + 1
        if not 1 <= number <= min(len(image), len(text)):
            raise UserError(
                f"task.first_layer={first_layer}: the image encoder has {len(image)} layers and the text encoder "
                f"{len(text)}; choose {max(1, len(image) - len(text) + 1)} to {len(image)}"
            )
        self.shared = nn.ModuleList(SharedProjection(bottleneck) for _ in range(number))
        self.image_adapters = self._attach(image[-number:], bottleneck, adapter_scale)
        self.text_adapters = self._attach(text[-number:], bottleneck, adapter_scale)

    def _attach(self, blocks: list[nn.Module], bottleneck: int, scale: float) -> nn.ModuleList:
        adapters = nn.ModuleList()
        for block, shared in zip(blocks, self.shared, strict=True):
            width = block.attn.embed_dim  # type: ignore[union-attr]
            assert isinstance(shared, SharedProjection)
            adapter = Adapter(int(width), shared, bottleneck, scale)  # type: ignore[arg-type]
            block.register_forward_hook(adapter.add_to_block)
            adapters.append(adapter)
        return adapters


def _linear(width_in: int, width_out: int) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
