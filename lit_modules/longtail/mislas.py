"""MiSLAS: mixup for the backbone, then label-aware smoothing for the classifier while batch norms follow the new mix.

Loss: stage 2: (1 - e_y) (-log p_y) + e_y mean of -log p_c, e_c rising from the rarest class to the largest

Zhong, Cui, Liu and Jia, "Improving Calibration for Long-Tailed Recognition", CVPR 2021.
https://arxiv.org/abs/2104.00466. What moves in stage 2: github.com/dvlab-research/MiSLAS train_stage2.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.stages import Stage, check_is_started, check_stage
from lit_modules.optimization import parameter_groups
from records.errors import UserError

SmoothingShape = Literal["concave", "linear", "convex", "exp"]


def smoothing_factors(
    class_counts: Tensor, head: float, tail: float, shape: SmoothingShape = "concave", power: float = 2.0
) -> Tensor:
    """Return how much the label of each class is smoothed, (C,): `tail` for the rarest class, `head` for the largest.

    With s = (n_c - n_min) / (n_max - n_min), which is 1 where all classes are equal, it is tail + (head - tail) times
    sin(pi s / 2) (`concave`), s (`linear`), 1 + sin(3 pi / 2 + pi s / 2) (`convex`) (eq. 4 to 6), or s^power (`exp`, in
    the authors' code alone).

    Args:
        class_counts: (C,) of a floating type.
        head: in [0, 1).
        tail: in [0, 1).
        shape: of the rise between them.
        power: of the shape `exp`, above 0; below 1 it is concave, above 1 convex.
    """
    spread = class_counts.max() - class_counts.min()
    share = (class_counts - class_counts.min()) / spread if spread > 0 else torch.ones_like(class_counts)
    rise = {
        "concave": torch.sin(share * math.pi / 2),
        "linear": share,
        "convex": 1 + torch.sin((3 + share) * math.pi / 2),
        "exp": share**power,
    }[shape]
    return tail + (head - tail) * rise


def label_aware_smoothing_loss(logits: Tensor, label: Tensor, smoothing: Tensor) -> Tensor:
    """Return the mean of (1 - e_y) (-log p_y) + e_y mean_c(-log p_c), logits (B, C), label (B,), smoothing e (C,)."""
    surprise = -F.log_softmax(logits, dim=1)
    own = surprise.gather(1, label.unsqueeze(1)).squeeze(1)
    share = smoothing[label]
    return ((1 - share) * own + share * surprise.mean(dim=1)).mean()


class MiSLAS(LongTailModule):
    """Stage 1 is cross-entropy with mixup; stage 2 trains the classifier and a scale of each class's logit.

    In stage 2 the backbone's weights are frozen, while its batch norms normalise by the batch and their running
    statistics move to the mix of classes that is sampled (`shift_batch_norm`).

    Args:
        stage: 1, the whole network; 2, classifier and scales; None is 1.
        smooth_head: smoothing of the largest class, in [0, 1).
        smooth_tail: smoothing of the rarest class, in [0, 1).
        smoothing_shape: of the rise between them.
        smoothing_power: of the shape `exp`, above 0.
        classifier_lr_scale: learning rate of the classifier in stage 2, as a multiple of the scales'.
        shift_batch_norm: whether batch norms move in stage 2.

    Raises:
        UserError: another stage, stage 2 on a backbone with random weights, or on cached features.
        ValueError: a value is out of range.
    """

    takes_weights: ClassVar[bool] = False

    def __init__(
        self,
        *,
        stage: Stage = None,
        smooth_head: float = 0.4,
        smooth_tail: float = 0.1,
        smoothing_shape: SmoothingShape = "concave",
        smoothing_power: float = 2.0,
        classifier_lr_scale: float = 0.2,
        shift_batch_norm: bool = True,
        **shared: Any,
    ) -> None:
        check_stage(stage, "the whole network, with mixup", "the classifier, with label-aware smoothing")
        super().__init__(**shared)
        for name, value in (("smooth_head", smooth_head), ("smooth_tail", smooth_tail)):
            if not 0 <= value < 1:
                raise ValueError(f"task.{name} must lie in [0, 1), not {value}")
        for name, value in (("smoothing_power", smoothing_power), ("classifier_lr_scale", classifier_lr_scale)):
            if not value > 0:
                raise ValueError(f"task.{name} must be above 0, not {value}")
        self.stage = stage
        self.smooth_head = smooth_head
        self.smooth_tail = smooth_tail
        self.smoothing_shape: SmoothingShape = smoothing_shape
        self.smoothing_power = smoothing_power
        self.classifier_lr_scale = classifier_lr_scale
        self.shift_batch_norm = shift_batch_norm
        self.class_scale = nn.Parameter(torch.ones(self.labels.num_classes)) if stage == 2 else None
        if stage == 2:
            self.freeze_backbone()

    def freeze_backbone(self) -> None:
        """Keep the backbone's weights as they are; the batch norms still train, if they are to move."""
        super().freeze_backbone()
        # the trainer leaves modes as it finds them
        self.train(self.training)

    def train(self, mode: bool = True) -> MiSLAS:
        """Set the mode; in stage 2 of the backbone the batch norms alone train, if they are to move."""
        super().train(mode)
        if mode and self.stage == 2 and self.shift_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        return self

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C), scaled by class in stage 2."""
        outputs = super().head(features)
        if self.class_scale is not None:
            outputs["logits"] = outputs["logits"] * self.class_scale
        return outputs

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy, in stage 2 with label-aware smoothing."""
        logits, label = outputs["logits"], batch["label"]
        if self.stage != 2:
            return {"loss": F.cross_entropy(logits, label)}
        smoothing = smoothing_factors(
            self.counts(logits).to(logits),
            self.smooth_head,
            self.smooth_tail,
            self.smoothing_shape,
            self.smoothing_power,
        )
        return {"loss": label_aware_smoothing_loss(logits, label, smoothing)}

    def on_fit_start(self) -> None:
        """Check that stage 2 has a trained backbone."""
        check_is_started(self.stage, self.backbone, self.is_tried_out)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; features that were computed once would not follow the batch norms."""
        if "feature" in batch and self.stage == 2 and self.shift_batch_norm:
            raise UserError(
                "cache_features=true: batch norms move in stage 2 of MiSLAS, and cached features would not follow; "
                "set cache_features=false, or task.shift_batch_norm=false"
            )
        return super().training_step(batch, batch_idx)

    def trained_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; in stage 2 the classifier has a learning rate of its own."""
        if self.class_scale is None:
            return super().trained_groups()
        settings, scales = self.optimization, nn.ParameterList([self.class_scale])
        slower = replace(settings, lr=settings.lr * self.classifier_lr_scale)
        return [
            *parameter_groups(scales, self.backbone, settings),
            *parameter_groups(self.classifier, self.backbone, slower),
        ]
