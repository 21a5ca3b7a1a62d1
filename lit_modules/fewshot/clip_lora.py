"""CLIP-LoRA: low-rank changes of the attention of both encoders, trained on a few images with fixed sentences.

Loss: -log softmax(100 f·t)_y, low-rank changes of q, k and v in both encoders trained

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR workshops 2024; figures from the
authors' code (github.com/MaxZanella/CLIP-LoRA).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

from torch import nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.clip_training import ClipTraining, transformer_blocks
from lit_modules.fewshot.head import LOGIT_SCALE, count, positive
from lit_modules.fewshot.lora import PROJECTIONS, LoraAttention
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from records.errors import UserError

Towers = Literal["both", "image", "text"]
Scaling = Literal["sqrt", "rank"]


class ClipLora(ClipTraining):
    """Low-rank matrices in every layer of CLIP's encoders; nothing else is trained.

    Args:
        rank: of the matrices.
        alpha: their factor is alpha / sqrt(rank) (`scaling=sqrt`, the authors' code), or alpha / rank (`rank`, LoRA).
        dropout: of their inputs, in [0, 1).
        projections: which of q, k, v, o they change.
        towers: the encoders that are changed: both, image or text.
        scale: see `ClipTraining`.

    Raises:
        UserError: a choice that does not exist, or encoders that are no transformers.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        rank: int = 2,
        alpha: float = 1.0,
        scaling: Scaling = "sqrt",
        dropout: float = 0.25,
        projections: Sequence[str] = ("q", "k", "v"),
        towers: Towers = "both",
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__(backbone, labels, optimization, metric, scale)
        count("rank", rank)
        if not 0 <= dropout < 1:
            raise ValueError(f"task.dropout is {dropout}; it must lie in [0, 1)")
        _check_choices(projections, towers, scaling)
        factor = positive("alpha", alpha) / (math.sqrt(rank) if scaling == "sqrt" else rank)
        both: dict[str, nn.Module] = {"image": self.towers.visual, "text": self.towers.text_tower}
        for name, tower in both.items():
            if towers in ("both", name):
                for block in transformer_blocks(tower, name):
                    _replace_attention(block, projections, rank, factor, dropout)


def _replace_attention(block: nn.Module, projections: Sequence[str], rank: int, factor: float, dropout: float) -> None:
    changed: Any = block
    plain = cast("nn.MultiheadAttention", changed.attn)
    weight = plain.in_proj_weight
    changed.attn = LoraAttention(plain, projections, rank, factor, dropout)
    changed.attn.low_rank.to(weight)


def _check_choices(projections: Sequence[str], towers: str, scaling: str) -> None:
    if not projections or not set(projections) <= set(PROJECTIONS):
        raise UserError(f"task.projections={list(projections)}: one or several of {', '.join(PROJECTIONS)}")
    for key, value, choices in (("towers", towers, get_args(Towers)), ("scaling", scaling, get_args(Scaling))):
        if value not in choices:
            raise UserError(f"task.{key}={value} is no choice; the choices are {', '.join(choices)}")
