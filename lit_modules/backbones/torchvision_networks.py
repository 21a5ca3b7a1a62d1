"""The three networks of torchvision that the hashing field compares on, cut where it takes their features."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torchvision
from torch import nn

from lit_modules.backbones.network import GroupMatcher, NetworkDescription
from lit_modules.backbones.pretrained import (
    PretrainedRecord,
    Requested,
    UrlWeights,
    check_requested,
    find_weights,
    reading,
)
from lit_modules.backbones.weights_file import read_state_dict, start_from_file
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGE_SIZE = 224


@dataclass(frozen=True)
class _Architecture:
    """How a network is cut, its feature width, the smallest image its pooling can take, its depths."""

    cut: Callable[[nn.Module], None]
    num_features: int
    smallest_image: int
    group_matcher: GroupMatcher


def _cut_classifier(layers: int) -> Callable[[nn.Module], None]:
    def cut(network: nn.Module) -> None:
        classifier = network.get_submodule("classifier")
        assert isinstance(classifier, nn.Sequential)
        network.classifier = classifier[:layers]

    return cut


def _cut_fc(network: nn.Module) -> None:
    network.fc = nn.Identity()


_LAYER_BY_LAYER = {"features": r"^features\.(\d+)", "classifier": r"^classifier\.(\d+)"}
_BLOCK_BY_BLOCK = {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)\.(\d+)"}

# AlexNet and VGG-16 end in the ReLU after their second fully connected layer, the 4096-d input of
# GreedyHash's hash layer.
ARCHITECTURES = {
    "alexnet": _Architecture(_cut_classifier(6), 4096, 63, _LAYER_BY_LAYER),
    "vgg16": _Architecture(_cut_classifier(5), 4096, 32, _LAYER_BY_LAYER),
    "resnet50": _Architecture(_cut_fc, 2048, 1, _BLOCK_BY_BLOCK),
}


def build_torchvision(
    architecture: str,
    pretrained: Requested,
    image_size: int | None,
    weights_file: Path | None,
    options: Mapping[str, Any],
) -> tuple[NetworkDescription, PretrainedRecord]:
    """Build alexnet or vgg16 (4096-d, after the second fully connected layer's ReLU) or resnet50 (2048-d).

    The published weights are torchvision's IMAGENET1K_V1, which the field's tables use; the option `weights`
    names others. Further options go to torchvision's constructor (`dropout`, ...).

    Raises:
        UserError: unknown architecture, weights or option; image too small; weights that cannot be had or
            read.
    """
    check_requested(pretrained)
    rule = ARCHITECTURES.get(architecture)
    if rule is None:
        close = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        raise UserError(
            f"model.architecture={architecture}: of torchvision choose {', '.join(ARCHITECTURES)}"
            + (f" (did you mean {close[0]}?)" if close else "")
            + "; any other network: model.source=timm"
        )
    if image_size is not None and image_size < rule.smallest_image:
        raise UserError(
            f"model.image_size={image_size}: the pooling of {architecture} needs at least "
            f"{rule.smallest_image} pixels; set model.image_size={IMAGE_SIZE}"
        )
    remaining = dict(options)
    published = _published(architecture, str(remaining.pop("weights", "IMAGENET1K_V1")))
    network = _create(architecture, remaining)
    if weights_file is not None:
        path, record = None, PretrainedRecord(pretrained, True, "")
    else:
        path, record = find_weights(pretrained, published, architecture)
    if path is not None:
        with reading(path, f"model.architecture={architecture}"):
            network.load_state_dict(read_state_dict(path))
    rule.cut(network)
    if weights_file is not None:
        record = start_from_file(network, weights_file, pretrained)
    description = NetworkDescription(
        network=network,
        num_features=rule.num_features,
        image_size=image_size or IMAGE_SIZE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        fixed_size=False,
        group_matcher=rule.group_matcher,
    )
    return description, record


def _published(architecture: str, name: str) -> UrlWeights:
    # those without classes (IMAGENET1K_FEATURES) have no trained classifier and want pixels of another scale
    entries = [one for one in torchvision.models.get_model_weights(architecture) if one.meta["categories"] is not None]
    choices = {entry.name: entry.url for entry in entries}
    if name not in choices:
        raise UserError(f"model.weights={name}: {architecture} has {', '.join(choices)}")
    return UrlWeights(choices[name])


def _create(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        network: nn.Module = torchvision.models.get_model(architecture, weights=None, **options)
    except (TypeError, ValueError) as error:
        asked = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise UserError(
            f"model.architecture={architecture}: torchvision refuses the options {asked}: {error}"
        ) from error
    return network
