"""Share of samples classified right, from integer counts: the same digits on any number of ranks."""

from __future__ import annotations

from torch import Tensor

from lit_modules.metrics.share import Share


class Accuracy(Share):
    """Top-1 accuracy of logits (B, C) against class numbers (B,); `compute` gives a fraction in float64."""

    def update(self, logits: Tensor, label: Tensor) -> None:  # type: ignore[override]
        """Count the samples whose largest logit is that of their class."""
        super().update((logits.argmax(dim=1) == label).sum(), len(label))
