"""Share of samples classified right, from integer counts: the same digits on any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Accuracy(Metric):
    """Top-1 accuracy of logits (B, C) against class numbers (B,); `compute` gives a fraction in float64."""

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Count the samples whose largest logit is that of their class."""
        self.correct += (logits.argmax(dim=1) == label).sum()
        self.total += len(label)

    def compute(self) -> Tensor:
        """Return correct / total; NaN before the first sample."""
        return self.correct.double() / self.total.double()
