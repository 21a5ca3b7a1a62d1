"""What trainings of CLIP's two encoders share: cosines of images with the sentences about each class, cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.open_clip_networks import ClipTowers
from lit_modules.base import Batch, LabelSpace, Outputs
from lit_modules.fewshot.head import LOGIT_SCALE
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.precision import full_precision, precise_type
from lit_modules.recognition import RecognitionModule
from records.errors import UserError

SENTENCES_KEY = "class_sentences"
"""Where a checkpoint holds the sentences about each class, C lists of text."""


class ClipTraining(RecognitionModule):
    """CLIP's encoders with few parameters added, which alone are trained; logits are scale * cosine with the text.

    The sentences come from the data (`class_sentences`, C lists); where a class has several, their embeddings are
    averaged at unit length. In training the text is encoded in every step, in evaluation once. A checkpoint holds them,
    so that a run is used without its data; where there are data, theirs count.

    Args:
        backbone: a model of open_clip with its text tower in it (`model.train_text=true`).
        labels, optimization, metric: as for every task.
        scale: on the cosines; CLIP's own is 100.

    Raises:
        UserError: the backbone has no text tower.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__(backbone, labels, optimization, metric)
        _check_towers(backbone)
        self.scale = scale
        self.backbone.requires_grad_(False)
        self._sentences: list[list[str]] = []
        self._tokens: Tensor | None = None
        self._counts: tuple[int, ...] = ()
        self._text: Tensor | None = None

    @property
    def towers(self) -> ClipTowers:
        """The two encoders."""
        return cast("ClipTowers", self.backbone.network)

    def set_sentences(self, sentences: Sequence[Sequence[str]]) -> None:
        """Take the sentences about each class, C lists of at least one.

        Raises:
            UserError: there is not a list for each class.
        """
        if len(sentences) != self.labels.num_classes or not all(sentences):
            raise UserError(f"there are sentences for {len(sentences)} of {self.labels.num_classes} classes")
        self._sentences = [[str(sentence) for sentence in one] for one in sentences]
        self._counts = tuple(len(one) for one in sentences)
        self._tokens = self.towers.tokens([sentence for one in self._sentences for sentence in one])
        self._text = None

    def setup(self, stage: str) -> None:
        """Take the sentences of the data."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.set_sentences(data.class_sentences)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sentences."""
        checkpoint[SENTENCES_KEY] = self._sentences

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sentences, where no data have given any.

        Raises:
            UserError: the checkpoint holds none, or not for these classes.
        """
        if self._sentences:
            return
        if not checkpoint.get(SENTENCES_KEY):
            raise UserError(
                "this checkpoint holds no sentences about the classes: it is of another task, or of an earlier "
                "release; mode=test takes them from the data"
            )
        self.set_sentences(checkpoint[SENTENCES_KEY])

    def train(self, mode: bool = True) -> ClipTraining:
        """Set the mode; the text is encoded anew after every change of it."""
        super().train(mode)
        self._text = None
        return self

    def text_features(self) -> Tensor:
        """Return the embeddings of the classes, (C, D) of unit length; with gradient in training."""
        if self.training:
            return self._encode_text()
        if self._text is None:
            with torch.no_grad():
                self._text = self._encode_text()
        return self._text

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C), in float32 at least."""
        text = self.text_features()
        with full_precision(features):
            images = F.normalize(features.to(precise_type(features)), dim=-1)
            return {"features": features, "logits": self.scale * images @ text.mT}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy over all classes."""
        return {"loss": F.cross_entropy(outputs["logits"], batch["label"])}

    def _encode_text(self) -> Tensor:
        assert self._tokens is not None
        rows = self.towers.encode_tokens(self._tokens)
        with full_precision(rows):
            units = F.normalize(rows.to(precise_type(rows)), dim=-1)
            means = torch.stack([part.mean(dim=0) for part in units.split(list(self._counts))])
            return F.normalize(means, dim=-1)


def transformer_blocks(tower: nn.Module, name: str) -> list[nn.Module]:
    """Return the blocks of a tower, from its input to its output.

    Raises:
        UserError: the tower is no transformer of open_clip's own.
    """
    transformer = getattr(tower, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        raise UserError(
            f"the {name} encoder of this model is no transformer with plain attention; take model=clip_vit_b32, "
            "clip_vit_b16 or another ViT of open_clip"
        )
    return blocks


def _check_towers(backbone: Backbone) -> None:
    network = backbone.network
    if not isinstance(network, ClipTowers):
        raise UserError(f"model={backbone.name} knows nothing of text; take model=clip_vit_b32 (the extra clip)")
    if not network.has_trainable_text:
        raise UserError("model.train_text=false: the text tower is held aside; set model.train_text=true")
