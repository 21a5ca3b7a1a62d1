"""CLIP models of open_clip: the image tower as a backbone, the text tower at its side. Needs the extra `clip`.

Weights come by name and tag (`weights`), from the hub or the mirror that HF_ENDPOINT names, or from a local file whose
tensors may be called in one of these ways (`lit_modules/backbones/weights_file.py` strips wrappers' prefixes):

    open_clip, and OpenAI's own files (TorchScript)         here
    visual.NAME                                             visual.NAME
    text.NAME                                               text.NAME
    transformer.NAME, token_embedding.weight,               text.transformer.NAME, text.token_embedding.weight,
    positional_embedding, ln_final.NAME, text_projection    text.positional_embedding, ...
    logit_scale, logit_bias                                 left out: no feature depends on them
    input_resolution, context_length, vocab_size            left out; they mark a file of OpenAI's
    attn_mask, at any depth                                 left out: a constant, which TorchScript writes too

All available models:
    python -c "from lit_modules.backbones import open_clip_networks as clip; [print(one) for one in clip.available()]"
"""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_modules.backbones.network import GroupMatcher, NetworkDescription
from lit_modules.backbones.pretrained import (
    HubWeights,
    PretrainedRecord,
    PublishedWeights,
    Requested,
    UrlWeights,
    check_requested,
    find_weights,
)
from lit_modules.backbones.weights_file import StateDict, load_state_dict, read_state_dict, start_from_file
from records.errors import UserError
from records.notices import RunWarning

OPTIONS = ("weights", "train_text")
HUB_FILENAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TEXT_NAMES = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
WITHOUT_FEATURE = ("logit_scale", "logit_bias", *OPENAI_MARKS)
ATTENTION_MASK = "attn_mask"
QUICK_GELU_SUFFIX = "-quickgelu"


class ClipTowers(nn.Module):
    """The two towers of a CLIP model: images (B, 3, H, W) to features (B, D), sentences to features (n, D).

    The text tower is held beside the module, without being part of it, unless `train_text` says so: it is then neither
    trained nor counted nor saved, so that a task that never reads text pays nothing for it.

    Args:
        visual: image tower.
        text: text tower.
        tokenize: sentences to int64 (n, L), zeros behind the end.
        num_features: width D of the space both encode to.
        train_text: make the text tower part of the module.
    """

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module,
        tokenize: Callable[[list[str]], Tensor],
        num_features: int,
        train_text: bool = False,
    ) -> None:
        super().__init__()
        self.visual = visual
        self.num_features = num_features
        # nobody sets the mode of what is held aside, and dropout in it would change its features
        self._aside = () if train_text else (text.eval(),)
        self._tokenize = tokenize
        if train_text:
            self.text = text

    @property
    def text_tower(self) -> nn.Module:
        """The text tower, wherever it is held."""
        return self._aside[0] if self._aside else self.text

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, D), of any length."""
        features: Tensor = self.visual(images)
        return features

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Map sentences to features (n, D), of any length, on the image tower's device.

        What is longer than the text tower reads is cut off, with a `RunWarning`.
        """
        return self.encode_tokens(self.tokens(sentences))

    @property
    def has_trainable_text(self) -> bool:
        """Whether the text tower is part of the module."""
        return not self._aside

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        """Return the tokens of sentences, int64 (n, L), zeros behind the end; what is longer is cut off and said."""
        tokens = self._tokenize(list(sentences))
        full = int((tokens[:, -1] != 0).sum())
        if full:
            warnings.warn(
                f"{full} sentences fill all {tokens.shape[1]} tokens that the text encoder reads; what is longer is "
                "cut off. Shorten the templates or the class names",
                RunWarning,
                stacklevel=3,
            )
        return tokens

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Map tokens int64 (n, L) to features (n, D), of any length, on the image tower's device."""
        device = next(self.visual.parameters()).device
        text = self.text_tower.to(device)
        features: Tensor = text(tokens.to(device))
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass: of the image tower, and of a text tower that trains."""
        self.visual.set_grad_checkpointing(enable)  # type: ignore[operator]
        if self.has_trainable_text:
            self.text.set_grad_checkpointing(enable)  # type: ignore[operator]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the image tower exempts from weight decay."""
        exempt = getattr(self.visual, "no_weight_decay", None)
        return {f"visual.{name}" for name in exempt()} if callable(exempt) else set()


def build_open_clip(
    architecture: str,
    pretrained: Requested,
    image_size: int | None,
    weights_file: Path | None,
    options: Mapping[str, Any],
) -> tuple[NetworkDescription, PretrainedRecord]:
    """Build the CLIP model `architecture` of open_clip; its features are those of the joint space.

    Options: `weights`, the tag of published weights (openai, laion2b_s34b_b79k, ...); `train_text`, whether the text
    tower is a part of the network that trains. The activation is the one that the weights were trained with: OpenAI's
    need QuickGELU, and plain GELU would cost accuracy without a word. Position embeddings of transformers are resized
    to `image_size`; ResNets take their own size alone.

    Raises:
        UserError: open_clip is not installed; unknown name, tag or option; a size or weights that do not fit.
    """
    open_clip = _import()
    check_requested(pretrained)
    for option in options:
        if option not in OPTIONS:
            raise UserError(f"model.{option}={options[option]!r}: no option here; choose {', '.join(OPTIONS)}")
    config = _model_config(open_clip, architecture)
    tag = options.get("weights")
    published = _published_config(open_clip, architecture, tag)
    quick = needs_quick_gelu(architecture, tag, published)
    size = _image_size(architecture, config, image_size)
    towers = _create(open_clip, architecture, size, quick, bool(options.get("train_text", False)))
    everything = nn.ModuleDict({"visual": towers.visual, "text": towers.text_tower})
    if weights_file is not None:
        _check_activation(read_state_dict(weights_file), weights_file, quick)
        record = start_from_file(everything, weights_file, pretrained, _converter(open_clip))
    else:
        path, record = find_weights(pretrained, _published(open_clip, published), architecture)
        if path is not None:
            load_state_dict(everything, read_state_dict(path), path, _converter(open_clip))
    description = NetworkDescription(
        network=towers,
        num_features=towers.num_features,
        image_size=size,
        mean=tuple((published or {}).get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple((published or {}).get("std") or open_clip.OPENAI_DATASET_STD),
        fixed_size=True,
        group_matcher=_group_matcher(),
    )
    return description, record


def available() -> list[str]:
    """List every published CLIP model as `architecture weights`.

    Raises:
        UserError: open_clip is not installed.
    """
    return [f"{architecture} {tag}" for architecture, tag in _import().list_pretrained()]


def needs_quick_gelu(architecture: str, tag: str | None, published: Mapping[str, Any] | None) -> bool:
    """Tell whether the weights of a tag were trained with QuickGELU; without a tag the architecture's name tells.

    Raises:
        UserError: the name asks for QuickGELU and the weights for plain GELU.
    """
    named = architecture.endswith(QUICK_GELU_SUFFIX)
    if published is None:
        return named
    quick = bool(published.get("quick_gelu", False))
    if named and not quick:
        raise UserError(
            f"model.architecture={architecture}: the weights {tag} were trained with plain GELU; set "
            f"model.architecture={architecture.removesuffix(QUICK_GELU_SUFFIX)}"
        )
    return quick


def _import() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            "model.source=open_clip needs the package open_clip_torch: install the extra, pip install -e '.[clip]'"
        ) from error
    return open_clip


def _model_config(open_clip: Any, architecture: str) -> Mapping[str, Any]:
    config = open_clip.get_model_config(architecture)
    if config is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=5, cutoff=0.4)
        raise UserError(
            f"model.architecture={architecture}: open_clip knows no such model; the closest names are "
            f'{", ".join(close) or "none"}. All names: python -c "import open_clip; print(open_clip.list_models())"'
        )
    return cast("Mapping[str, Any]", config)


def _published_config(open_clip: Any, architecture: str, tag: str | None) -> Mapping[str, Any] | None:
    if tag is None:
        return None
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"model.weights={tag}: {architecture} has no weights of that tag; choose {', '.join(tags) or 'null'}"
        )
    return cast("Mapping[str, Any]", config)


def _image_size(architecture: str, config: Mapping[str, Any], wanted: int | None) -> int:
    vision = config["vision_cfg"]
    own = vision.get("image_size", 224)
    own = max(own) if isinstance(own, (list, tuple)) else int(own)
    if wanted is None or wanted == own:
        return own
    patch = vision.get("patch_size")
    if not patch or isinstance(vision.get("layers"), (list, tuple)) or "timm_model_name" in vision:
        raise UserError(f"model.image_size={wanted}: {architecture} takes images of {own} pixels and no others")
    if wanted % patch:
        below = max(patch, wanted // patch * patch)
        raise UserError(
            f"model.image_size={wanted}: {architecture} cuts images into patches of {patch} pixels; set "
            f"model.image_size={below} or {below + patch}"
        )
    return wanted


def _create(open_clip: Any, architecture: str, image_size: int, quick: bool, train_text: bool) -> ClipTowers:
    with _quiet():
        model = open_clip.create_model(
            architecture,
            pretrained=None,
            load_weights=False,
            force_quick_gelu=quick,
            force_custom_text=True,
            force_image_size=image_size,
            device=torch.get_default_device(),
        )
    try:
        tokenize = open_clip.get_tokenizer(architecture)
    except (ImportError, OSError) as error:
        raise UserError(
            f"model.architecture={architecture}: its tokenizer cannot be had ({error}); the models of OpenAI and "
            "most of LAION's need none but open_clip's own"
        ) from error
    return ClipTowers(model.visual, model.text, tokenize, int(model.visual.output_dim), train_text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from saying that it loads no weights: they are loaded here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _published(open_clip: Any, config: Mapping[str, Any] | None) -> PublishedWeights | None:
    if not config:
        return None
    if config.get("hf_hub"):
        repository, _, filename = str(config["hf_hub"]).rpartition("/")
        stem = filename.rpartition(".")[0]
        return HubWeights(repository, (f"{stem}.safetensors", filename) if filename else HUB_FILENAMES)
    return UrlWeights(str(config["url"])) if config.get("url") else None


def _check_activation(state: StateDict, path: Path, quick: bool) -> None:
    """Refuse OpenAI's own file, which tells itself apart, for a network with plain GELU."""
    if not quick and all(mark in state for mark in OPENAI_MARKS):
        raise UserError(
            f"model.weights_file={path}: OpenAI's weights need QuickGELU, and the network has plain GELU; set "
            "model.weights=openai"
        )


def _is_left_out(name: str) -> bool:
    return name in WITHOUT_FEATURE or name.rpartition(".")[2] == ATTENTION_MASK


def _converter(open_clip: Any) -> Callable[[StateDict, nn.Module], Mapping[str, Tensor]]:
    def convert(state: StateDict, network: nn.Module) -> Mapping[str, Tensor]:
        named = {_name_here(name): tensor for name, tensor in state.items() if not _is_left_out(name)}
        from open_clip.model import resize_pos_embed

        resize_pos_embed(named, _AsClip(network))
        return named

    return convert


class _AsClip:
    """What open_clip's resizing of position embeddings looks at: `visual`."""

    def __init__(self, network: nn.Module) -> None:
        self.visual = cast("nn.ModuleDict", network)["visual"]


def _name_here(name: str) -> str:
    return f"text.{name}" if name.startswith(TEXT_NAMES) else name


def _group_matcher() -> GroupMatcher:
    return {
        "stem": r"^(?:visual\.(?:conv|bn|class_emb|positional_emb|ln_pre)|text\.(?:token|positional)_emb)",
        "blocks": [
            (r"^(?:visual|text)\.transformer\.resblocks\.(\d+)", None),
            (r"^visual\.layer(\d+)", None),
            (r"^(?:visual|text)\.", (99999,)),
        ],
    }
