"""Our own networks by name: the CIFAR ResNets and the small one."""

from __future__ import annotations

import difflib
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_modules.backbones.cifar_resnet import BLOCKS_PER_STAGE, CifarResNet, cifar_resnet_experts
from lit_modules.backbones.experts import ExpertNetwork
from lit_modules.backbones.network import CIFAR_MEAN, CIFAR_STD, NetworkDescription
from lit_modules.backbones.pretrained import PretrainedRecord, Requested, check_requested, find_weights
from lit_modules.backbones.tiny import TinyConvNet, tiny_experts
from lit_modules.backbones.weights_file import start_from_file
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

OwnNetwork = TinyConvNet | CifarResNet | ExpertNetwork

IMAGE_SIZE = 32
ARCHITECTURES: dict[str, Callable[..., OwnNetwork]] = {
    "tiny": TinyConvNet,
    **{name: partial(CifarResNet, blocks) for name, blocks in BLOCKS_PER_STAGE.items()},
}
EXPERT_OPTIONS = ("experts", "reduce_dimension")
EXPERT_ARCHITECTURES: dict[str, Callable[..., ExpertNetwork]] = {
    "tiny": tiny_experts,
    **{name: partial(cifar_resnet_experts, blocks) for name, blocks in BLOCKS_PER_STAGE.items()},
}


def build_own(
    architecture: str,
    pretrained: Requested,
    image_size: int | None,
    weights_file: Path | None,
    options: Mapping[str, Any],
) -> tuple[NetworkDescription, PretrainedRecord]:
    """Build tiny or cifar_resnet20, 32, 44, 56; their option `width` is the channels of the first stage.

    `experts` above 1 gives the later stages that often, each with its own features, side by side: (B, experts * D);
    `reduce_dimension` narrows those stages to three quarters.

    They take images of any size from 4 pixels on, made for 32, and normalise with CIFAR-10's statistics. No
    weights are published for them here; `weights_file` takes the checkpoints of the field.

    Raises:
        UserError: unknown architecture or option; image too small; `pretrained` is true; weights that cannot
            be read.
    """
    check_requested(pretrained)
    network = _create(architecture, options)
    if image_size is not None and image_size < 4:
        raise UserError(f"model.image_size={image_size}: {architecture} needs at least 4 pixels")
    if weights_file is not None:
        record = start_from_file(network, weights_file, pretrained)
    else:
        _, record = find_weights(pretrained, None, architecture)
    description = NetworkDescription(
        network=network,
        num_features=network.num_features,
        image_size=image_size or IMAGE_SIZE,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        fixed_size=False,
        group_matcher=network.group_matcher(),
    )
    return description, record


def _create(architecture: str, options: Mapping[str, Any]) -> OwnNetwork:
    if architecture not in ARCHITECTURES:
        close = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        raise UserError(
            f"model.architecture={architecture}: of our own choose {', '.join(ARCHITECTURES)}"
            + (f" (did you mean {close[0]}?)" if close else "")
            + "; any other network: model.source=timm"
        )
    _check_options(architecture, options)
    plain = {name: value for name, value in options.items() if name not in EXPERT_OPTIONS}
    experts = options.get("experts", 1)
    if experts == 1:
        return ARCHITECTURES[architecture](**plain)
    width = plain.pop("width", _default_width(architecture))
    reduced = options.get("reduce_dimension", False)
    return EXPERT_ARCHITECTURES[architecture](width=width, experts=experts, reduce_dimension=reduced)


def _check_options(architecture: str, options: Mapping[str, Any]) -> None:
    own = [n for n in inspect.signature(ARCHITECTURES[architecture]).parameters if n != "blocks_per_stage"]
    known = [*own, *EXPERT_OPTIONS]
    for name in options:
        if name not in known:
            raise UserError(
                f"model.{name}={options[name]!r}: {architecture} has no such option; choose {', '.join(known)}"
            )
    for name, unit in (("width", "channels"), ("experts", "experts")):
        value = options.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"model.{name}={value!r}: a whole number of {unit} from 1 on")
    if options.get("reduce_dimension") and options.get("experts", 1) == 1:
        raise UserError(
            "model.reduce_dimension=true narrows the stages that several experts have each; one network stays as it "
            "is: choose model.experts=3, or leave it false"
        )


def _default_width(architecture: str) -> int:
    return int(inspect.signature(ARCHITECTURES[architecture]).parameters["width"].default)
