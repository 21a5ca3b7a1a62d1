"""What few-shot tasks share once logits are there: judged class by class, and on seen and unseen classes apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, TaskModule
from lit_modules.metrics.open_domain import open_domain_metrics
from lit_modules.metrics.per_class import ClassRecognition, RecognitionResult
from lit_modules.optimization import Optimization
from records.errors import UserError


class RecognitionModule(TaskModule):
    """A task whose head gives `logits` (B, C), evaluated by a `ClassRecognition`.

    Where the data tell `seen_classes`, `seen`, `unseen` and `harmonic` are logged as well.

    Args:
        backbone, labels, optimization: as for every task.
        metric: of the classes.

    Raises:
        UserError: the data have several labels per image.
    """

    def __init__(
        self, backbone: Backbone, labels: LabelSpace, optimization: Optimization, metric: ClassRecognition
    ) -> None:
        super().__init__(backbone, labels, optimization)
        if labels.multi_label:
            raise UserError("few-shot tasks need one class per image, and these data have several: choose other data")
        self.metric = metric
        self.recognition_result: RecognitionResult | None = None

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self._collect(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation part as `val/NAME`."""
        self._judge("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test part as `test/NAME`, and keep the result for pictures."""
        self.recognition_result = self._judge("test")

    def _collect(self, batch: Batch) -> None:
        self.metric.update(self(batch)["logits"], batch["label"], batch["index"])

    def _judge(self, stage: str) -> RecognitionResult:
        result = self.metric.compute()
        self.metric.reset()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        seen: Tensor | None = getattr(data, "seen_classes", None)
        extra = {} if seen is None else open_domain_metrics(result.confusion, seen.cpu().numpy())
        self.log_metrics(stage, {**result.metrics, **extra})
        return result
