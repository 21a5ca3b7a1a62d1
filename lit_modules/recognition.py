"""What tasks share that tell classes apart: images blended in training, and an evaluation that judges every class."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, Outputs, TaskModule
from lit_modules.blending.batch import (
    FOREGROUND,
    NO_BLENDING,
    Blending,
    foreground,
    samples,
    without_foreground,
)
from lit_modules.blending.labels import OWN_SHARE, PARTNER_LABEL, two_target_loss
from lit_modules.metrics.open_domain import open_domain_metrics
from lit_modules.metrics.per_class import ClassRecognition, RecognitionResult
from lit_modules.optimization import Optimization
from lit_modules.precision import full_precision
from records.errors import UserError


class RecognitionModule(TaskModule):
    """A task whose outputs hold `logits` (B, C), evaluated by a `ClassRecognition`.

    A method says what its `criterion` is. The batch it gets has hard labels; of a blended image the criterion is taken
    for both labels. Where the data tell `seen_classes`, `seen`, `unseen` and `harmonic` are logged as well.

    Args:
        backbone, labels, optimization: as for every task.
        metric: of the classes.
        blending: which training images are blended.
        gather_batch: see `TaskModule`.

    Raises:
        UserError: the data have several labels per image.
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        blending: Blending = NO_BLENDING,
        gather_batch: bool = False,
    ) -> None:
        super().__init__(backbone, labels, optimization, gather_batch)
        if labels.multi_label:
            raise UserError("this task needs one class per image, and these data have several: choose other data")
        self.metric = metric
        self.blending = blending
        self.recognition_result: RecognitionResult | None = None

    @abstractmethod
    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss to minimise under `loss`, and its parts, for hard labels (B,); autocast is off here."""

    def scores(self, outputs: Outputs) -> Tensor:
        """Return what is judged, logits (B, C) whose largest is the prediction."""
        return outputs["logits"]

    @property
    def progress(self) -> float:
        """Share of the run's epochs that are done at the start of this one, in [0, 1]; 0 without a trainer."""
        if self._trainer is None:
            return 0.0
        return min(self.current_epoch / max(self.trainer.max_epochs or 1, 1), 1.0)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the criterion; of blended images that for both labels, by their shares of the image."""
        with full_precision(batch["label"]):
            losses = self.criterion(outputs, batch)
            if PARTNER_LABEL not in batch:
                return losses
            partner = self.criterion(outputs, {**batch, "label": batch[PARTNER_LABEL]})
            return two_target_loss(losses, partner, batch[OWN_SHARE][0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, blended where mixup or CutMix is on."""
        return super().training_step(self.blended(batch, batch_idx), batch_idx)

    def blended(self, batch: Batch, step: int) -> Batch:
        """Return a step's batch, blended where this step is.

        Raises:
            UserError: images are drawn to be pasted, and nothing pastes them.
        """
        if FOREGROUND in batch and not self.blending.is_on:
            raise UserError(
                "data.foreground draws images to be pasted into others, and nothing pastes them: add "
                "task.cutmix_alpha=1 (task=cmo has it), or set data.foreground=none"
            )
        plain = without_foreground(batch) if FOREGROUND in batch else batch
        if not self.blending.happens(self.current_epoch, step, self.progress):
            return plain
        partner = foreground(batch) if FOREGROUND in batch else self._partners(plain, step)
        return self.blending.blend(plain, partner, self.current_epoch, step)

    def _partners(self, batch: Batch, step: int) -> Batch:
        """Return the partner of each sample, drawn from the batch of all ranks."""
        pool, ranks = samples(batch), self.trainer.world_size
        if ranks > 1:
            pool = self._over_ranks(pool)
        drawn = self.blending.partners(len(pool["label"]), self.current_epoch, step)[self.global_rank :: ranks]
        return {key: values[drawn.to(values.device)] for key, values in pool.items()}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self.evaluate_batch(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self.evaluate_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation part as `val/NAME`."""
        self._judge("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test part as `test/NAME`, and keep the result for pictures."""
        self.recognition_result = self._judge("test")

    def evaluate_batch(self, batch: Batch) -> None:
        """Judge one batch of a validation or test part, and take in what is found."""
        self.collect(self(batch), batch)

    def collect(self, outputs: Outputs, batch: Batch) -> None:
        """Take in what an evaluation says of one batch."""
        self.metric.update(self.scores(outputs), batch["label"], batch["index"])

    def further_metrics(self, stage: str) -> dict[str, float]:
        """Return what a method measures beside the recognition of classes, and forget what it was taken from."""
        return {}

    def _judge(self, stage: str) -> RecognitionResult:
        data: Any = getattr(self.trainer, "datamodule", None)
        result = judge(self.metric, getattr(data, "seen_classes", None))
        self.log_metrics(stage, {**result.metrics, **self.further_metrics(stage)})
        return result


def judge(metric: ClassRecognition, seen_classes: Tensor | None = None) -> RecognitionResult:
    """Return what a metric finds in what it took in, and empty it.

    Args:
        metric: has taken in an evaluation.
        seen_classes: bool (C,), classes with training images; given, `seen`, `unseen` and `harmonic` are measured too.
    """
    result = metric.compute()
    metric.reset()
    if seen_classes is None:
        return result
    return replace(
        result, metrics={**result.metrics, **open_domain_metrics(result.confusion, seen_classes.cpu().numpy())}
    )
