"""Hash layers on frozen features: the backbone stays as it was loaded."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lit_modules.base import Batch
from lit_modules.hashing.base import HashingModule
from records.notices import RunWarning


class FrozenFeatures(HashingModule):
    """A hashing method on the features of a backbone in evaluation mode and without gradient.

    The features are those of `model.pretrained=true`, or of `model.weights_file=FILE`, which may be a run's own
    checkpoint.
    """

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Set the mode of all but the backbone, whose batch norms must keep what they were loaded with."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, batch: Batch) -> Tensor:
        """Return features (B, D) of the batch's images, without gradient."""
        with torch.no_grad():
            return super().encode(batch)

    def on_fit_start(self) -> None:
        """Warn where the features are those of random weights."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
        if not self.backbone.pretrained.used:
            rank_zero_only(warnings.warn)(
                f"model={self.backbone.name}: the features come from random weights, which this task does not train; "
                "choose model.pretrained=true, model.weights_file=FILE, or a model that has published weights",
                RunWarning,
                stacklevel=2,
            )
