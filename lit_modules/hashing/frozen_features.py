"""Hash layers on frozen features: the backbone stays as it was loaded."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_modules.hashing.base import HashingModule
from records.notices import RunWarning


class FrozenFeatures(HashingModule):
    """A hashing method on the features of a backbone in evaluation mode and without gradient.

    The features are those of `model.pretrained=true`, of `model.weights_file=FILE`, or of `init_from=RUN`.
    """

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.freeze_backbone()

    def on_fit_start(self) -> None:
        """Warn where the features are those of random weights."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
        if not self.backbone.pretrained.used:
            rank_zero_only(warnings.warn)(
                f"model={self.backbone.name}: the features come from random weights, which this task does not train; "
                "choose model.pretrained=true, model.weights_file=FILE, init_from=RUN, or a model with published "
                "weights",
                RunWarning,
                stacklevel=2,
            )
