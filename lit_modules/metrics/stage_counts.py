"""How many images each stage of a cascade took, and how often it was right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class StageCounts(Metric):
    """Counts for each of S stages; sums, so that any batches on any number of ranks give the same digits.

    Args:
        stages: names of the stages.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    reached: Tensor
    answered: Tensor
    reached_right: Tensor
    answered_right: Tensor

    def __init__(self, stages: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stages = tuple(stages)
        for name in ("reached", "answered", "reached_right", "answered_right"):
            zeros = torch.zeros(len(self.stages), dtype=torch.int64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, guesses: Tensor, answered: Tensor, label: Tensor) -> None:
        """Take in a batch.

        Args:
            guesses: int64 (S, B), the best class at each stage; -1 where an image did not come to it.
            answered: int64 (B,), number of the stage that answered.
            label: int64 (B,).
        """
        here = guesses >= 0
        kept = answered == torch.arange(len(self.stages), device=answered.device).unsqueeze(1)
        right = guesses == label
        self.reached += here.sum(dim=1)
        self.reached_right += (here & right).sum(dim=1)
        self.answered += kept.sum(dim=1)
        self.answered_right += (kept & right).sum(dim=1)

    def compute(self) -> dict[str, float]:
        """Return `reached_STAGE` and `answered_STAGE`, counts, and their accuracies; none of a stage without images."""
        found: dict[str, float] = {}
        for number, stage in enumerate(self.stages):
            for kind in ("reached", "answered"):
                count, right = int(getattr(self, kind)[number]), int(getattr(self, f"{kind}_right")[number])
                found[f"{kind}_{stage}"] = count
                if count:
                    found[f"accuracy_{kind}_{stage}"] = right / count
        return found
