"""What the long-tail methods share: classifier, class weights, blended images, and recalls of the training part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_modules.base import Batch, LabelSpace, Outputs
from lit_modules.blending.batch import Blending
from lit_modules.blending.labels import dominant_label
from lit_modules.constant import Constant
from lit_modules.longtail.class_weights import ClassWeighting, has_begun
from lit_modules.longtail.classifier import ClassifierKind, build_classifier, fold_class_scale
from lit_modules.longtail.training_recalls import TrainingRecalls
from lit_modules.precision import precise_type
from lit_modules.recognition import RecognitionModule
from records.errors import UserError


class LongTailModule(RecognitionModule):
    """A backbone and a classifier, judged class by class; a method says what its `criterion` is.

    What is predicted of a training image during the epoch gives the training part's accuracy and recalls; the label of
    a blended image is then that of its larger share.

    Args:
        classifier: `linear`, or `cosine` with logits scale * cos.
        scale: of the cosine classifier.
        class_weights: the `weights` of a training rule (`ClassWeighting`); None for none.
        mixup_alpha, cutmix_alpha, blend_probability, plain_share, seed: see `Blending`.
        gather_batch: see `TaskModule`.
        shared: backbone, labels, optimization and metric, as for every task.

    Raises:
        UserError: a class has no training image, or weights or blending go to a method that has no use for them.
        ValueError: a value is out of range.
    """

    takes_weights: ClassVar[bool] = True
    takes_mixup: ClassVar[bool] = True

    def __init__(
        self,
        *,
        classifier: ClassifierKind = "linear",
        scale: float = 30.0,
        class_weights: Mapping[str, Any] | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        blend_probability: float = 1.0,
        plain_share: float = 0.0,
        seed: int = 0,
        gather_batch: bool = False,
        **shared: Any,
    ) -> None:
        weighting = ClassWeighting(**(class_weights or {}))
        blending = Blending(mixup_alpha, cutmix_alpha, blend_probability, plain_share, seed)
        # a weighted mean divides by the weights of the images at hand: those of all ranks
        gather_batch = gather_batch or weighting.kind != "none"
        super().__init__(blending=blending, gather_batch=gather_batch, **shared)
        labels = self.labels
        _check_labels(labels)
        self._check_options(weighting)
        self.classifier_kind = classifier
        self.classifier = self.new_classifier(classifier, scale)
        counts = torch.tensor(labels.class_counts)
        weights = weighting.weights(counts)
        self._class_counts = Constant(counts)
        self._class_weights = None if weights is None else Constant(weights)
        self._weights_from = weighting.from_fraction
        self.metric.group_by(labels.class_counts)
        self.training_recalls = TrainingRecalls(labels.num_classes, self.metric.floor)

    def new_classifier(self, kind: ClassifierKind, scale: float) -> nn.Module:
        """Return an untrained classifier of features (B, D); `scale` is the cosine classifier's."""
        return build_classifier(kind, self.backbone.num_features, self.labels.num_classes, scale)

    def take_class_scale(self, scale: Tensor) -> bool:
        """Fold the factors (C,) on the classes' logits, learned in the run started from, into the classifier loaded.

        Returns:
            Whether it can take them.
        """
        return fold_class_scale(self.classifier, scale)

    @property
    def is_tried_out(self) -> bool:
        """Whether this is one step to see that it runs (`fast_dev_run`), which leaves nothing to start from."""
        return bool(getattr(self._trainer, "fast_dev_run", False))

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

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the criterion, for both labels of a blended image; count what was predicted."""
        self.count_predictions(outputs, batch)
        return super().loss(outputs, batch)

    @torch.no_grad()
    def count_predictions(self, outputs: Outputs, batch: Batch) -> None:
        """Count what is predicted of a training batch, for the recalls of the epoch."""
        self.training_recalls.update(self.scores(outputs), dominant_label(batch))

    def on_train_epoch_end(self) -> None:
        """Log accuracy and recalls of the training part, as predicted during the epoch, as `train/NAME`."""
        metrics = self.training_recalls.compute()
        self.training_recalls.reset()
        self.log_dict({f"train/{name}": value for name, value in metrics.items()})

    def _check_options(self, weighting: ClassWeighting) -> None:
        name = type(self).__name__
        if weighting.kind != "none" and not self.takes_weights:
            raise UserError(
                f"task.class_weights.kind={weighting.kind}: {name} balances the classes itself and takes no weights; "
                "choose rule=none, or a rule of sampling (balanced, sqrt, class_aware, drs)"
            )
        for key in ("mixup_alpha", "cutmix_alpha"):
            alpha = getattr(self.blending, key)
            if alpha > 0 and not self.takes_mixup:
                raise UserError(f"task.{key}={alpha}: {name} needs unblended images; set task.{key}=0")


def _check_labels(labels: LabelSpace) -> None:
    empty = [name for name, count in zip(labels.class_names, labels.class_counts, strict=True) if count < 1]
    if empty:
        raise UserError(
            f"{len(empty)} of {labels.num_classes} classes have no training image, the first is {empty[0]!r}: "
            "its prior would be log 0; lower data.imbalance_ratio or data.val_fraction"
        )
