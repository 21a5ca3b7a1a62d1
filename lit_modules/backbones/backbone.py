"""One call for every backbone: plain images in, features out, from timm, torchvision, open_clip or our own networks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers
from torch import Tensor, nn

from lit_modules.backbones.open_clip_networks import build_open_clip
from lit_modules.backbones.own_networks import build_own
from lit_modules.backbones.timm_networks import build_timm
from lit_modules.backbones.torchvision_networks import build_torchvision
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lit_modules.backbones.network import NetworkDescription
    from lit_modules.backbones.pretrained import PretrainedRecord, Requested

Source = Literal["own", "timm", "torchvision", "open_clip"]
BUILDERS = {"own": build_own, "timm": build_timm, "torchvision": build_torchvision, "open_clip": build_open_clip}


class Backbone(nn.Module):
    """A network that normalises for itself: images (B, 3, H, W), uint8 or in [0, 1], to features (B, D).

    Attributes:
        name: name of the choice, for records.
        num_features: width D of the features.
        image_size: height and width in pixels that the network is built for.
        mean, std: three numbers each, for pixels in [0, 1].
        pretrained: what was asked for and what the weights are.
        network: the wrapped network.
    """

    def __init__(
        self,
        description: NetworkDescription,
        name: str,
        pretrained: PretrainedRecord,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.num_features = description.num_features
        self.image_size = description.image_size
        self.mean = description.mean
        self.std = description.std
        self.pretrained = pretrained
        self.network = description.network
        self._fixed_size = description.fixed_size
        self._group_matcher = description.group_matcher
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self._memory_format)
        # no buffers: a moving average of the weights would average these constants too, and drift by rounding
        self._statistics: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), uint8 or float in [0, 1], to features (B, num_features).

        Raises:
            UserError: another shape or number type, or a size that this network does not take.
        """
        self._check(images)
        features: Tensor = self.network(self.normalise(images))
        if features.ndim != 2:
            raise UserError(
                f"model={self.name}: the network gives features of shape {tuple(features.shape)}, not (B, D); "
                "remove the option that switches its pooling off (model.global_pool)"
            )
        return features

    def normalise(self, images: Tensor) -> Tensor:
        """Scale images (B, 3, H, W), uint8 or float in [0, 1], by mean and std, in the network's type."""
        mean, std = self._mean_and_std(images.device)
        # float32 until the division is done: bf16 holds pixel values but not their normalised differences
        pixels = images.float() if images.is_floating_point() else images.float() / 255
        dtype = next(self.network.parameters()).dtype
        return ((pixels - mean) / std).to(dtype).contiguous(memory_format=self._memory_format)

    def _mean_and_std(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._statistics:
            mean, std = (torch.tensor(three, device=device).view(1, 3, 1, 1) for three in (self.mean, self.std))
            self._statistics[device] = (mean, std)
        return self._statistics[device]

    def depth_groups(self) -> dict[str, int]:
        """Map each parameter's name to its depth, 0 (nearest the image) to L, for layer-wise rate decay.

        timm's own rule (`group_matcher`) for its models; stages, blocks or layers for torchvision's and ours.
        """
        if self._group_matcher is None:
            depths = auto_group_layers(self.network)
        else:
            depths = group_parameters(self.network, self._group_matcher, reverse=True)
        return {f"network.{name}": int(depths[name]) for name, _ in self.network.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> Any:
        """Return the rule timm's optimizer factory asks for: a parameter's name to its depth."""
        return self.depth_groups().__getitem__

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters the architecture exempts from weight decay (position embeddings, ...).

        Biases and normalisation weights are not among them: exempting those is the optimizer's choice.
        """
        exempt = getattr(self.network, "no_weight_decay", None)
        names = set(exempt()) if callable(exempt) else set()
        return {f"network.{name}" for name, _ in self.network.named_parameters() if name in names}

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"model={self.name}: images of shape {tuple(images.shape)}; it takes (B, 3, H, W)")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UserError(f"model={self.name}: images of type {images.dtype}; it takes uint8, or floats in [0, 1]")
        height, width = images.shape[-2:]
        if self._fixed_size and (height, width) != (self.image_size, self.image_size):
            raise UserError(
                f"model={self.name}: images of {height} x {width} pixels; it is built for "
                f"{self.image_size} x {self.image_size}. Set model.image_size to the size of the images, "
                "or let the data resize them"
            )


def build_backbone(
    source: Source,
    architecture: str,
    pretrained: Requested,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels_last: bool = False,
    weights_file: str | None = None,
    name: str | None = None,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> Backbone:
    """Build a backbone by name.

    Args:
        source: own, timm, torchvision or open_clip (the extra `clip`).
        architecture: name in that source.
        pretrained: True (published weights or an error), False (random ones), "auto" (published weights if
            cached or if their server answers, otherwise a `RunWarning` and random ones; decided within 5 s).
        image_size: height and width in pixels; None is the model's own.
        mean: three numbers for pixels in [0, 1]; None is the model's own.
        std: three numbers above 0, likewise.
        channels_last: memory format of the network and its input; faster for plain CNNs only.
        weights_file: local .safetensors or PyTorch file to load instead of the published weights.
        name: name for records; None is the architecture.
        gradient_checkpointing: recompute activations in the backward pass; timm models that can.
        options: passed on to the architecture (drop_path_rate, width, ...); None is its own value.

    Raises:
        UserError: a wrong name, value or option, or weights that cannot be had; the text names the mend.
    """
    builder = BUILDERS.get(source)
    if builder is None:
        raise UserError(f"model.source={source!r}: choose {', '.join(BUILDERS)}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise UserError(
            f"model.image_size={image_size!r}: a whole number of pixels from 1 on, or null for the model's own"
        )
    if source != "open_clip" and options.get("train_text"):
        raise UserError(
            f"model.train_text=true: of source {source} no model has a text tower; take model=clip_vit_b32 or another "
            "of open_clip (the extra clip), or a task that needs no text"
        )
    chosen = _three_numbers("mean", mean) | _three_numbers("std", std)
    path = Path(weights_file).expanduser() if weights_file else None
    # As in timm, an option of None is left to the architecture, so that a YAML can show it without choosing.
    given = {option: value for option, value in options.items() if value is not None}
    description, record = builder(architecture, pretrained, image_size, path, given)
    described = replace(description, mean=chosen.get("mean", description.mean), std=chosen.get("std", description.std))
    backbone = Backbone(described, name or architecture, record, channels_last)
    if gradient_checkpointing:
        _checkpoint_gradients(backbone)
    return backbone


def _checkpoint_gradients(backbone: Backbone) -> None:
    switch = getattr(backbone.network, "set_grad_checkpointing", None)
    if not callable(switch):
        raise UserError(
            f"model.gradient_checkpointing=true: {backbone.name} cannot recompute its activations; "
            "timm's models can (model.source=timm). Use a smaller data.batch_size with trainer.accumulate_grad_batches"
        )
    switch(True)


def _three_numbers(key: str, values: Sequence[float] | None) -> dict[str, tuple[float, ...]]:
    if values is None:
        return {}
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (key == "std" and min(numbers) <= 0):
        bound = ", all above 0" if key == "std" else ""
        raise UserError(
            f"model.{key}={values!r}: three finite numbers for pixels in [0, 1]{bound}, or null for the model's own"
        )
    return {key: numbers}
