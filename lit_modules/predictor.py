"""A trained task that says what it makes of a sample: code, scores and features."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from torch import Tensor

from lit_modules.base import Outputs, TaskModule
from lit_modules.recognition import RecognitionModule

Scores = Literal["probability", "cosine"]


class Predictor(L.LightningModule):
    """A trained task in evaluation mode.

    Args:
        task: with its trained weights.
    """

    def __init__(self, task: TaskModule) -> None:
        super().__init__()
        self.task = task

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Look at `image` (B, 3, S, S) or `feature` (B, D).

        Returns:
            on the CPU: `values` (B, K) float32 where the task has a hash layer, and `scores` (B, C) float64 where it
            tells classes: probabilities that sum to 1, or cosines (`kind_of_scores`).
        """
        outputs = self.task(batch)
        found = {}
        if "h" in outputs:
            found["values"] = outputs["h"].float().cpu()
        scores = self._scores(outputs)
        if scores is not None:
            is_probability = kind_of_scores(self.task) == "probability"
            found["scores"] = (scores.double().softmax(dim=1) if is_probability else scores.double()).cpu()
        return found

    def _scores(self, outputs: Outputs) -> Tensor | None:
        if isinstance(self.task, RecognitionModule):
            return self.task.scores(outputs)
        return outputs.get("logits")


def kind_of_scores(task: TaskModule) -> Scores:
    """Say what the scores of a task's classes are: cosines with the centres of its codebook, or logits."""
    return "cosine" if hasattr(task, "codebook") else "probability"
