"""Recalls of the training part, from what the network says of its images while it trains on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_modules.metrics.recognition import FLOOR, geometric_mean, harmonic_mean


class TrainingRecalls(Metric):
    """Accuracy, GM, HM and lowest recall from two integer counts per class, so that an epoch costs nothing.

    Classes that were not drawn are left out; `floor` is what a smaller recall counts as in GM and HM.
    """

    full_state_update = False

    correct: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, floor: float = FLOOR) -> None:
        super().__init__()
        self.floor = floor
        for name in ("correct", "seen"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Count predictions, the largest of logits (B, C), against labels (B,)."""
        hit = (logits.argmax(dim=1) == label).long()
        self.correct.index_add_(0, label, hit)
        self.seen.index_add_(0, label, torch.ones_like(hit))

    def compute(self) -> dict[str, float]:
        """Return `accuracy` over images, `gm`, `hm` and `lowest_recall` over classes drawn; nothing before any."""
        drawn = self.seen > 0
        if not bool(drawn.any()):
            return {}
        recalls = (self.correct[drawn].double() / self.seen[drawn].double()).cpu().numpy()
        return {
            "accuracy": int(self.correct.sum()) / int(self.seen.sum()),
            "gm": float(geometric_mean(recalls, self.floor)),
            "hm": float(harmonic_mean(recalls, self.floor)),
            "lowest_recall": float(recalls.min()),
        }
