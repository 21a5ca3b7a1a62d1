"""A trained task that encodes images and nothing else: features and hash values, averaged over views."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import TaskModule


class Encoder(L.LightningModule):
    """A trained task in evaluation mode; its batches hold several views of each image.

    Args:
        task: with its trained weights.
    """

    def __init__(self, task: TaskModule) -> None:
        super().__init__()
        self.task = task

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Encode `image` (V, B, 3, S, S).

        Returns:
            `features` (B, D), the mean over views of features of unit length (with a single view: the features), and,
            where the task has a hash layer, `values` (B, K), the mean of the hash values; float32.
        """
        views = batch["image"]
        count, size = views.shape[:2]
        features = self.task.encode({"image": views.flatten(0, 1)})
        outputs = self.task.head(features)
        features = features.float().unflatten(0, (count, size))
        averaged = features[0] if count == 1 else F.normalize(features, dim=-1).mean(dim=0)
        encoded = {"features": averaged}
        if "h" in outputs:
            encoded["values"] = outputs["h"].float().unflatten(0, (count, size)).mean(dim=0)
        return encoded
