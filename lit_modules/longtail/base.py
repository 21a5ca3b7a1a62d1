"""What the long-tail methods share: classifier, class weights, mixup, and an evaluation that judges every class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, Outputs, TaskModule
from lit_modules.constant import Constant
from lit_modules.longtail.class_weights import ClassWeighting, has_begun
from lit_modules.longtail.classifier import ClassifierKind, build_classifier
from lit_modules.longtail.mixup import (
    OWN_SHARE,
    PARTNER_LABEL,
    dominant_label,
    draw_partners,
    draw_share,
    mix,
    two_target_loss,
)
from lit_modules.longtail.training_recalls import TrainingRecalls
from lit_modules.metrics.per_class import ClassRecognition, RecognitionResult
from lit_modules.optimization import Optimization
from lit_modules.precision import full_precision, precise_type
from records.errors import UserError


class LongTailModule(TaskModule):
    """A backbone and a classifier, judged class by class.

    A method says what its `criterion` is. The batch it gets has hard labels; with mixup the criterion is taken for
    both labels of a blended image. What is predicted of a training image during the epoch gives the training part's
    accuracy and recalls; with mixup its label is that of the image's larger share.

    Args:
        classifier: `linear`, or `cosine` with logits scale * cos.
        scale: of the cosine classifier.
        class_weights: the `weights` of a training rule (`ClassWeighting`); None for none.
        mixup_alpha: blend images with a share from Beta(alpha, alpha); 0 for none.
        seed: of mixup.

    Raises:
        UserError: a class has no training image, or weights or mixup go to a method that has no use for them.
        ValueError: a value is out of range.
    """

    takes_weights: ClassVar[bool] = True
    takes_mixup: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        classifier: ClassifierKind = "linear",
        scale: float = 30.0,
        class_weights: Mapping[str, Any] | None = None,
        mixup_alpha: float = 0.0,
        seed: int = 0,
        gather_batch: bool = False,
    ) -> None:
        weighting = ClassWeighting(**(class_weights or {}))
        # a weighted mean divides by the weights of the images at hand: those of all ranks
        super().__init__(backbone, labels, optimization, gather_batch or weighting.kind != "none")
        _check_labels(labels)
        self._check_options(weighting, mixup_alpha)
        self.classifier_kind = classifier
        self.classifier = self.new_classifier(classifier, scale)
        counts = torch.tensor(labels.class_counts)
        weights = weighting.weights(counts)
        self._class_counts = Constant(counts)
        self._class_weights = None if weights is None else Constant(weights)
        self._weights_from = weighting.from_fraction
        self.mixup_alpha = mixup_alpha
        self.seed = seed
        self.metric = metric
        self.metric.group_by(labels.class_counts)
        self.training_recalls = TrainingRecalls(labels.num_classes, metric.floor)
        self.recognition_result: RecognitionResult | None = None

    @abstractmethod
    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss to minimise under `loss`, and its parts, for hard labels (B,); autocast is off here."""

    def new_classifier(self, kind: ClassifierKind, scale: float) -> nn.Module:
        """Return an untrained classifier of features (B, D); `scale` is the cosine classifier's."""
        return build_classifier(kind, self.backbone.num_features, self.labels.num_classes, scale)

    @property
    def progress(self) -> float:
        """Share of the run's epochs that are done at the start of this one, in [0, 1]; 0 without a trainer."""
        if self._trainer is None:
            return 0.0
        return min(self.current_epoch / max(self.trainer.max_epochs or 1, 1), 1.0)

    def counts(self, like: Tensor) -> Tensor:
        """Return the training images of each class, int64 (C,), on the device of `like`."""
        return self._class_counts.on(like.device)

    def weights(self, like: Tensor) -> Tensor | None:
        """Return the rule's class weights (C,) of this epoch in the type of `like`; None for equal ones."""
        if self._class_weights is None or not has_begun(self.progress, self._weights_from):
            return None
        return self._class_weights.on(like.device).to(like.dtype)

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C), both in float32 at least."""
        features = features.to(precise_type(features))
        return {"features": features, "logits": self.classifier(features)}

    def scores(self, outputs: Outputs) -> Tensor:
        """Return what is judged, logits (B, C) whose largest is the prediction."""
        return outputs["logits"]

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the criterion, for both labels of a blended image; count what was predicted."""
        self.count_predictions(outputs, batch)
        with full_precision(batch["label"]):
            losses = self.criterion(outputs, batch)
            if PARTNER_LABEL not in batch:
                return losses
            partner = self.criterion(outputs, {**batch, "label": batch[PARTNER_LABEL]})
            return two_target_loss(losses, partner, batch[OWN_SHARE][0])

    @torch.no_grad()
    def count_predictions(self, outputs: Outputs, batch: Batch) -> None:
        """Count what is predicted of a training batch, for the recalls of the epoch."""
        self.training_recalls.update(self.scores(outputs), dominant_label(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, blended where mixup is on."""
        return super().training_step(self._blended(batch, batch_idx), batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log accuracy and recalls of the training part, as predicted during the epoch, as `train/NAME`."""
        metrics = self.training_recalls.compute()
        self.training_recalls.reset()
        self.log_dict({f"train/{name}": value for name, value in metrics.items()})

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self.collect(self(batch), batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch."""
        self.collect(self(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation part as `val/NAME`."""
        self._judge("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test part as `test/NAME`, and keep the result for pictures."""
        self.recognition_result = self._judge("test")

    def collect(self, outputs: Outputs, batch: Batch) -> None:
        """Take in what an evaluation says of one batch."""
        self.metric.update(self.scores(outputs), batch["label"], batch["index"])

    def further_metrics(self) -> dict[str, float]:
        """Return what a method measures beside the recognition of classes, and forget what it was taken from."""
        return {}

    def _judge(self, stage: str) -> RecognitionResult:
        result = self.metric.compute()
        self.metric.reset()
        self.log_metrics(stage, {**result.metrics, **self.further_metrics()})
        return result

    def _blended(self, batch: Batch, step: int) -> Batch:
        if self.mixup_alpha == 0:
            return batch
        place = (self.seed, self.current_epoch, step)
        share = draw_share(self.mixup_alpha, *place)
        return mix(batch, share, draw_partners(len(batch["label"]), *place, self.global_rank))

    def _check_options(self, weighting: ClassWeighting, mixup_alpha: float) -> None:
        name = type(self).__name__
        if weighting.kind != "none" and not self.takes_weights:
            raise UserError(
                f"task.class_weights.kind={weighting.kind}: {name} balances the classes itself and takes no weights; "
                "choose rule=none, or a rule of sampling (balanced, sqrt, class_aware, drs)"
            )
        if mixup_alpha < 0:
            raise ValueError(f"task.mixup_alpha must be 0 (no mixup) or more, not {mixup_alpha}")
        if mixup_alpha > 0 and not self.takes_mixup:
            raise UserError(f"task.mixup_alpha={mixup_alpha}: {name} needs unblended images; set task.mixup_alpha=0")


def _check_labels(labels: LabelSpace) -> None:
    if labels.multi_label:
        raise UserError("long-tail methods need one class per image, and these data have several: choose other data")
    empty = [name for name, count in zip(labels.class_names, labels.class_counts, strict=True) if count < 1]
    if empty:
        raise UserError(
            f"{len(empty)} of {labels.num_classes} classes have no training image, the first is {empty[0]!r}: "
            "its prior would be log 0; lower data.imbalance_ratio or data.val_fraction"
        )
