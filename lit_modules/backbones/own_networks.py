"""Our own networks by name: the CIFAR ResNets and the small one."""

from __future__ import annotations

import difflib
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from lit_modules.backbones.cifar_resnet import BLOCKS_PER_STAGE, CifarResNet
from lit_modules.backbones.network import CIFAR_MEAN, CIFAR_STD, NetworkDescription
from lit_modules.backbones.pretrained import PretrainedRecord, Requested, check_requested, find_weights
from lit_modules.backbones.tiny import TinyConvNet
from lit_modules.backbones.weights_file import start_from_file
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

IMAGE_SIZE = 32
ARCHITECTURES: dict[str, Callable[..., TinyConvNet | CifarResNet]] = {
    "tiny": TinyConvNet,
    **{name: partial(CifarResNet, blocks) for name, blocks in BLOCKS_PER_STAGE.items()},
}


def build_own(
    architecture: str,
    pretrained: Requested,
    image_size: int | None,
    weights_file: Path | None,
    options: Mapping[str, Any],
) -> tuple[NetworkDescription, PretrainedRecord]:
    """Build tiny or cifar_resnet20, 32, 44, 56; their option `width` is the channels of the first stage.

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


def _create(architecture: str, options: Mapping[str, Any]) -> TinyConvNet | CifarResNet:
    factory = ARCHITECTURES.get(architecture)
    if factory is None:
        close = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        raise UserError(
            f"model.architecture={architecture}: of our own choose {', '.join(ARCHITECTURES)}"
            + (f" (did you mean {close[0]}?)" if close else "")
            + "; any other network: model.source=timm"
        )
    known = [n for n in inspect.signature(factory).parameters if n != "blocks_per_stage"]
    for name in options:
        if name not in known:
            raise UserError(
                f"model.{name}={options[name]!r}: {architecture} has no such option; choose {', '.join(known)}"
            )
    width = options.get("width", 1)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise UserError(f"model.width={width!r}: a whole number of channels from 1 on")
    network = factory(**options)
    assert isinstance(network, nn.Module)
    return network
