"""LWS: the classifier of a plain training keeps its directions, and each class learns a scale of its logit.

Loss: stage 2: -log softmax(s · W f)_y with W as it is, a learned scale s_c per class

Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
https://arxiv.org/abs/1910.09217. What is scaled: github.com/facebookresearch/classifier-balancing TauNormClassifier.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.classifier import CLASS_SCALE, fold_class_scale
from lit_modules.longtail.retrained_classifier import RetrainedClassifier
from lit_modules.longtail.stages import Stage, check_is_started, check_stage
from records.errors import UserError


class LearnableWeightScaling(RetrainedClassifier):
    """Stage 1 is cross-entropy; stage 2 trains one factor a class on the logits, bias included, and nothing else.

    Args:
        stage: 1, the whole network; 2, the factors; None is 1.

    Raises:
        UserError: another stage, or stage 2 without a trained backbone and classifier.
    """

    def __init__(self, *, stage: Stage = None, **shared: Any) -> None:
        check_stage(stage, "the whole network", "a scale of each class")
        super().__init__(**shared)
        self.stage = stage
        self.class_scale = nn.Parameter(torch.ones(self.labels.num_classes)) if stage == 2 else None
        if stage == 2:
            self.freeze_backbone()
            self.classifier.requires_grad_(False)

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Keep the classifier that was loaded, with its factors where these were loaded too."""
        super().started_from(loaded, unused)
        if CLASS_SCALE in loaded and self.class_scale is not None:
            for old in self._old:
                fold_class_scale(old, self.class_scale)

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D), scaled `logits` (B, C), in evaluation `old_logits` (B, C) of what was loaded."""
        outputs = super().head(features)
        if self.class_scale is not None:
            outputs["logits"] = outputs["logits"] * self.class_scale
        return outputs

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        logits = outputs["logits"]
        return {"loss": F.cross_entropy(logits, batch["label"], self.weights(logits))}

    def on_fit_start(self) -> None:
        """Check that stage 2 has a trained backbone and its classifier."""
        check_is_started(self.stage, self.backbone, self.is_tried_out)
        if self.stage == 2 and not self.has_old_classifier and not self.is_tried_out:
            raise UserError(
                "task.stage=2 scales the logits of a trained classifier, and none was loaded: init_from must hold one "
                f"that fits task.classifier={self.classifier_kind} (init_parts=all, init_keys)"
            )
        super().on_fit_start()
