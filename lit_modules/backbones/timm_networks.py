"""Networks of timm without classifier, by name, from the hub (`hf-hub:`) or from a folder (`local-dir:`)."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
from timm.data import resolve_model_data_config
from timm.models import split_model_name_tag

from lit_modules.backbones.network import GroupMatcher, NetworkDescription
from lit_modules.backbones.pretrained import (
    HubWeights,
    PretrainedRecord,
    PublishedWeights,
    Requested,
    UrlWeights,
    check_requested,
    find_weights,
    reading,
    require_file,
)
from lit_modules.backbones.weights_file import StateDict, start_from_file
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

# Names of a repository's weight file, the safe format first.
HUB_FILENAMES = ("model.safetensors", "pytorch_model.bin")
FOLDER_PATTERNS = ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.pth", "*.bin")
# What build_backbone itself decides, and the key that decides it.
RESERVED_OPTIONS = {
    "num_classes": "a backbone has no classifier",
    "in_chans": "images have three channels",
    "img_size": "use model.image_size",
    "checkpoint_path": "use model.weights_file",
    "pretrained_cfg": "use model.architecture=NAME.TAG",
    "pretrained_cfg_overlay": "use model.mean, model.std, model.image_size or model.weights_file",
    "features_only": "a backbone gives one feature vector per image",
}


@dataclass(frozen=True)
class _Origin:
    """A name timm builds from, its configuration as far as it is known before building, and its weights."""

    name: str
    config: Mapping[str, Any]
    weights: PublishedWeights | None


@dataclass(frozen=True)
class _FolderWeights:
    """The weight file of a `local-dir:` folder: its own cache, with no server behind it."""

    folder: Path

    @property
    def label(self) -> str:
        return f"the folder {self.folder}"

    @property
    def cache_folder(self) -> Path:
        return self.folder

    def cached(self) -> Path | None:
        return next((p for pattern in FOLDER_PATTERNS for p in sorted(self.folder.glob(pattern))), None)

    def why_unreachable(self, seconds: float) -> str | None:
        return f"none of {', '.join(FOLDER_PATTERNS)} is in it"

    def download(self) -> Path:
        raise FileNotFoundError(self.folder)


def build_timm(
    architecture: str,
    pretrained: Requested,
    image_size: int | None,
    weights_file: Path | None,
    options: Mapping[str, Any],
) -> tuple[NetworkDescription, PretrainedRecord]:
    """Build `architecture` (NAME or NAME.TAG of timm, `hf-hub:ORG/NAME`, `local-dir:FOLDER`), headless.

    Position embeddings and relative position tables are resized to `image_size` (pixels; None: the model's
    own); `options` go to timm's constructor (drop_path_rate, window_size, dynamic_img_size, ...).
    `weights_file` replaces the published weights.

    Raises:
        UserError: unknown name, size or option the architecture refuses, weights that cannot be had or read.
    """
    check_requested(pretrained)
    _refuse_reserved(options)
    origin = _origin(architecture)
    path, record = (
        find_weights(pretrained, origin.weights, architecture)
        if weights_file is None
        else (None, PretrainedRecord(pretrained, True, ""))
    )
    arguments = dict(options)
    # timm's own rule: a network of fixed input size, and no other, takes img_size.
    if image_size is not None and origin.config.get("fixed_input_size", False):
        arguments["img_size"] = image_size
    network = _create(origin, architecture, path, arguments)
    if weights_file is not None:
        record = start_from_file(network, weights_file, pretrained, _converter(network))
    description = _describe(network, architecture, image_size, origin.config)
    _refuse_cropping(network, architecture, description.image_size)
    return description, record


def _refuse_reserved(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in RESERVED_OPTIONS:
            raise UserError(f"model.{name}={options[name]!r}: not an option here; {RESERVED_OPTIONS[name]}")


def _origin(architecture: str) -> _Origin:
    kind, separator, place = architecture.partition(":")
    if separator and kind in ("hf-hub", "hf_hub"):
        repository, _, revision = place.partition("@")
        description = HubWeights(repository, ("config.json",), revision or None)
        folder = require_file(description, f"model.architecture={architecture}").parent
        weights = HubWeights(repository, HUB_FILENAMES, revision or None)
        return _Origin(f"local-dir:{folder}", _folder_config(folder, architecture), weights)
    if separator and kind == "local-dir":
        folder = Path(place)
        return _Origin(architecture, _folder_config(folder, architecture), _FolderWeights(folder))
    return _registered(architecture)


def _folder_config(folder: Path, architecture: str) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"model.architecture={architecture}: no config.json in {folder}")
    config = json.loads(path.read_text(encoding="utf-8"))
    name = config.get("architecture")
    if not name or not timm.is_model(name):
        raise UserError(f"model.architecture={architecture}: {path} names the architecture {name!r}, unknown to timm")
    nested = config.get("pretrained_cfg")
    return nested if isinstance(nested, dict) else config


def _registered(architecture: str) -> _Origin:
    name, tag = split_model_name_tag(architecture)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise UserError(
            f"model.architecture={architecture}: timm knows no such model; the closest names are "
            f"{', '.join(close) or 'none'}. All names: "
            f"python -c \"import timm; print(timm.list_models('*{name[:4]}*'))\""
        )
    tags = [full for full in timm.list_pretrained(f"{name}.*") if full.startswith(f"{name}.")]
    if tag and architecture not in tags:
        raise UserError(
            f"model.architecture={architecture}: {name} has no weights tagged {tag!r}; choose "
            f"{', '.join(tags) or 'the name without a tag'}"
        )
    found = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    config = found.to_dict() if found else {}
    return _Origin(architecture, config, _published(config))


def _published(config: Mapping[str, Any]) -> PublishedWeights | None:
    if config.get("hf_hub_id"):
        repository, _, revision = config["hf_hub_id"].partition("@")
        return HubWeights(repository, _hub_filenames(config.get("hf_hub_filename")), revision or None)
    url = config.get("url")
    return UrlWeights(url) if isinstance(url, str) and url else None


def _hub_filenames(filename: str | None) -> tuple[str, ...]:
    if not filename:
        return HUB_FILENAMES
    if not filename.endswith(".bin"):
        return (filename,)
    stem = filename.removesuffix(".bin").replace("pytorch_model", "model")
    return (f"{stem}.safetensors", filename)


def _create(origin: _Origin, architecture: str, path: Path | None, arguments: Mapping[str, Any]) -> nn.Module:
    def create(**weights: Any) -> nn.Module:
        return timm.create_model(origin.name, num_classes=0, **weights, **arguments)

    if path is not None:
        # The empty source sends timm to `file` even where the name itself says local-dir.
        overlay = {"file": str(path), "source": "", "custom_load": origin.config.get("custom_load", False)}
    try:
        if path is None:
            return create(pretrained=False)
        with reading(path, f"model.architecture={architecture}"):
            return create(pretrained=True, pretrained_cfg_overlay=overlay)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        asked = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no options"
        raise UserError(
            f"model.architecture={architecture}: timm refuses {asked} (img_size is model.image_size, the rest are "
            f"options of model): {error}"
        ) from error


def _refuse_cropping(network: nn.Module, architecture: str, image_size: int) -> None:
    """Refuse a size whose last rows and columns fill no patch: some networks drop them without a word."""
    embedding = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if patch is None or getattr(embedding, "dynamic_img_pad", False):
        return
    side = max(patch) if isinstance(patch, tuple) else int(patch)
    if image_size % side:
        below = max(side, image_size // side * side)
        raise UserError(
            f"model.image_size={image_size}: {architecture} cuts images into patches of {side} pixels; "
            f"set model.image_size={below} or {below + side}"
        )


def _converter(network: nn.Module) -> Callable[[StateDict, nn.Module], Mapping[str, Tensor]] | None:
    """Return the architecture's own rule for foreign names and for position tables of another size."""
    module = sys.modules[type(network).__module__]
    return cast(
        "Callable[[StateDict, nn.Module], Mapping[str, Tensor]] | None",
        getattr(module, "checkpoint_filter_fn", None),
    )


def _describe(
    network: nn.Module, architecture: str, image_size: int | None, config: Mapping[str, Any]
) -> NetworkDescription:
    data = resolve_model_data_config(network)
    height, width = data["input_size"][-2:]
    if image_size is None and height != width:
        raise UserError(
            f"model.image_size=null: the own size of {architecture} is {height} x {width} pixels, and images here "
            f"are square; set model.image_size={height}"
        )
    strict = getattr(getattr(network, "patch_embed", None), "strict_img_size", config.get("fixed_input_size", False))
    dynamic = getattr(network, "dynamic_img_size", False)
    # timm's name for the width after a head's hidden layer, where a model has one.
    num_features = cast("int", getattr(network, "head_hidden_size", network.num_features))
    return NetworkDescription(
        network=network,
        num_features=num_features,
        image_size=image_size or height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        fixed_size=bool(strict) and not dynamic,
        group_matcher=_group_matcher(network),
    )


def _group_matcher(network: nn.Module) -> GroupMatcher | None:
    matcher = getattr(network, "group_matcher", None)
    return cast("GroupMatcher", matcher(coarse=False)) if callable(matcher) else None
