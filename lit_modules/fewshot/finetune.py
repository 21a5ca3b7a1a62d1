"""Fine-tuning: a linear classifier on a backbone of which nothing, the last blocks or everything is trained.

Loss: -log softmax(W f)_y, or with both labels of blended images

With `trainable=head`, `adapt_statistics` and a larger `model.image_size` it is the second stage of FixRes (Touvron et
al., "Fixing the train-test resolution discrepancy", NeurIPS 2019): classifier and batch statistics learn the size.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, Outputs
from lit_modules.blending.batch import Blending
from lit_modules.precision import PreciseLinear
from lit_modules.recognition import RecognitionModule
from records.errors import UserError
from records.notices import RunWarning

Trainable = Literal["head", "last_blocks", "all"]
Statistics = Literal["none", "last", "all"]


class FineTune(RecognitionModule):
    """Cross-entropy with label smoothing on the logits of a linear classifier, with mixup and CutMix.

    Args:
        trainable: of the backbone: nothing (`head`), the groups of the greatest depth (`last_blocks`), or `all`.
            Layer-wise rates are the optimizer's choice (`optim.layer_decay`).
        blocks: how many groups of depth, for `last_blocks`.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        mixup_alpha: blend images with a share from Beta(alpha, alpha); 0 for none.
        cutmix_alpha: paste a box of another image, its area from Beta(alpha, alpha); 0 for none. With both, each step
            does one of the two, at even chances.
        adapt_statistics: batch norms that go on learning mean and variance where the backbone is not trained: none,
            the last one, or all.
        init_std: of the classifier's weights; biases start at 0.
        seed: of the blending.
        shared: backbone, labels, optimization and metric, as for every task.

    Raises:
        UserError: a choice or a combination that does not exist, or more blocks than there are.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        trainable: Trainable = "all",
        blocks: int = 1,
        label_smoothing: float = 0.1,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        adapt_statistics: Statistics = "none",
        init_std: float = 0.02,
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(blending=Blending(mixup_alpha, cutmix_alpha, seed=seed), **shared)
        _check_choices(trainable, adapt_statistics)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing is {label_smoothing}; it must lie in [0, 1)")
        self.label_smoothing = label_smoothing
        self.classifier = PreciseLinear(self.backbone.num_features, self.labels.num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=init_std)
        nn.init.zeros_(self.classifier.bias)
        self._adapted = _batch_norms(self.backbone, adapt_statistics)
        if trainable == "head":
            self.freeze_backbone()
        elif trainable == "last_blocks":
            self._freeze_below(blocks)
        _warn_of_unseen(self.labels)

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C), in float32 at least."""
        return {"features": features, "logits": self.classifier(features)}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy with smoothed labels."""
        return {"loss": F.cross_entropy(outputs["logits"], batch["label"], label_smoothing=self.label_smoothing)}

    def train(self, mode: bool = True) -> FineTune:
        """Set the mode: frozen parts stay in evaluation mode, but for the batch statistics that adapt."""
        super().train(mode)
        if mode:
            for module in self.backbone.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
            for norm in self._adapted:
                norm.train()
        return self

    def _freeze_below(self, blocks: int) -> None:
        depths = self.backbone.depth_groups()
        levels = sorted(set(depths.values()))
        if not 1 <= blocks <= len(levels):
            raise UserError(
                f"task.blocks={blocks}: {self.backbone.name} has {len(levels)} groups of depth, the stem among them; "
                f"choose 1 to {len(levels)}"
            )
        first = levels[-blocks]
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(depths[name] >= first)


def _check_choices(trainable: str, statistics: str) -> None:
    for key, value, choices in (
        ("trainable", trainable, get_args(Trainable)),
        ("adapt_statistics", statistics, get_args(Statistics)),
    ):
        if value not in choices:
            raise UserError(f"task.{key}={value} is no choice; the choices are {', '.join(choices)}")
    if statistics != "none" and trainable != "head":
        raise UserError(
            f"task.adapt_statistics={statistics}: the statistics of what is trained adapt anyway; with "
            "task.trainable=head those of a frozen backbone can"
        )


def _batch_norms(backbone: Backbone, choice: Statistics) -> list[nn.Module]:
    norms: list[nn.Module] = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if choice == "none":
        return []
    if not norms:
        raise UserError(f"task.adapt_statistics={choice}: {backbone.name} has no batch norm; set none")
    return norms if choice == "all" else norms[-1:]


def _warn_of_unseen(labels: LabelSpace) -> None:
    unseen = [name for name, count in zip(labels.class_names, labels.class_counts, strict=True) if not count]
    if unseen:
        warnings.warn(
            f"{len(unseen)} of {labels.num_classes} classes have no training image, the first is {unseen[0]!r}: a "
            "classifier of images alone cannot know them; task=clip_lora and task=mma can, by their names",
            RunWarning,
            stacklevel=3,
        )
