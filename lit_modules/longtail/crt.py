"""cRT: a classifier is trained anew, with class-balanced sampling, on the frozen backbone of a plain training.

Loss: stage 2: -log softmax(W f)_y with a new W, classes sampled alike

Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020. https://arxiv.org/abs/1910.09217
"""

from __future__ import annotations

from typing import Any

from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.stages import Stage, check_is_started, check_stage


class ClassifierRetraining(CrossEntropy):
    """Stage 1 is cross-entropy; stage 2 forgets the classifier and trains another on the frozen backbone.

    Args:
        stage: 1, the whole network; 2, a new classifier; None is 1.

    Raises:
        UserError: another stage, or stage 2 on a backbone with random weights.
    """

    def __init__(self, *, stage: Stage = None, **shared: Any) -> None:
        check_stage(stage, "the whole network", "a new classifier")
        super().__init__(reinitialise=stage == 2, **shared)
        self.stage = stage
        if stage == 2:
            self.freeze_backbone()

    def on_fit_start(self) -> None:
        """Check that stage 2 has a trained backbone."""
        check_is_started(self.stage, self.backbone, self.is_tried_out)
        super().on_fit_start()
