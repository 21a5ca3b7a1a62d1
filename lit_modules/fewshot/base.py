"""A few-shot head as a task: fitted once on the data's features, judged class by class."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, Outputs
from lit_modules.fewshot.head import FewShotHead, State
from lit_modules.fewshot.problem import problem_of, protocol_of, seen_by_fit
from lit_modules.metrics.per_class import ClassRecognition, RecognitionResult
from lit_modules.optimization import Optimization
from lit_modules.precision import full_precision
from lit_modules.recognition import RecognitionModule, judge
from records.errors import UserError

STATE_KEY = "few_shot_head"
"""Where a checkpoint holds the fitted head, a dict of tensors."""


class FewShotModule(RecognitionModule):
    """Any `FewShotHead` in a run: fitted when training starts, before the only epoch there is.

    The head takes whole arrays from the data: `support_features`, `support_labels`, `text_features`,
    `unlabelled_features`, `validation_features`, `validation_labels`; batches of training are only counted. Its state
    goes into every checkpoint as plain tensors, so that a run resumes and is tested again without a new fit. What the
    fit chose is logged as `train/NAME`.

    Args:
        classifier: the head.
        backbone: encodes batches of images; batches of features pass it by.
        labels, optimization, metric: as for every task; nothing is optimised.

    Raises:
        UserError: the data have several labels per image.
    """

    fits_at_once: ClassVar[bool] = True

    def __init__(
        self,
        classifier: FewShotHead,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
    ) -> None:
        super().__init__(backbone, labels, optimization, metric)
        self.classifier = classifier
        self.freeze_backbone()
        # a run without a parameter takes no steps, and one without steps leaves no checkpoints
        self.idle = nn.Parameter(torch.zeros(()))

    @property
    def transductive(self) -> bool:
        """Whether the fit looked at the unlabelled images that are judged."""
        return self.classifier.transductive

    @property
    def evaluation_protocol(self) -> dict[str, str]:
        """What a reader of the result must know of the head, beside the data's own protocol."""
        return protocol_of(self.classifier)

    def seen_by_fit(self, data: Any) -> dict[str, str]:
        """Return what a reader of the result must know of the unlabelled images of data that the fit looks at."""
        return seen_by_fit(self.transductive, data)

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C), in float32 whatever `trainer.precision`: the fit is."""
        with full_precision(features):
            return {"features": features, "logits": self.classifier.predict(features.float())}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the fitted head; a figure, nothing is trained by it."""
        return {"loss": F.cross_entropy(outputs["logits"], batch["label"])}

    def configure_optimizers(self) -> Any:
        """Return an optimizer whose steps have length zero."""
        return torch.optim.SGD([self.idle], lr=0.0)

    def on_train_start(self) -> None:
        """Fit the head on the first process, and hand its state to the others; not again where a run is resumed."""
        if self.classifier.state:
            return
        if self.trainer.is_global_zero:
            with full_precision(self.idle):
                self._fit(self.trainer.datamodule)  # type: ignore[attr-defined]
        self.classifier.state = self.trainer.strategy.broadcast(self.classifier.state)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the loss and what the fit chose; return a zero whose gradient is zero."""
        super().training_step(batch, batch_idx)
        return self.log_fit(batch)

    def log_fit(self, batch: Batch) -> Tensor:
        """Log what the fit chose; return a zero whose gradient is zero."""
        chosen = {f"train/{name}": value for name, value in self.classifier.facts.items()}
        self.exact_metrics.update(chosen)
        self.log_dict(chosen, on_step=False, on_epoch=True, batch_size=len(batch["index"]))
        return 0 * self.idle

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the fitted state."""
        checkpoint[STATE_KEY] = dict(self.classifier.state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the fitted state.

        Raises:
            UserError: the checkpoint is not that of a few-shot head.
        """
        if STATE_KEY not in checkpoint:
            raise UserError("this checkpoint holds no fitted few-shot head; name the run of a few-shot task")
        state: State = checkpoint[STATE_KEY]
        self.classifier.state = dict(state)

    def _fit(self, data: Any) -> None:
        problem_of(data, self.classifier, self.labels.num_classes).fit(self.classifier, self.device)


def recognise(
    head: FewShotHead,
    features: Tensor,
    labels: Tensor,
    metric: ClassRecognition,
    batch_size: int,
    seen_classes: Tensor | None = None,
) -> RecognitionResult:
    """Judge a fitted head on whole arrays, as a run of `FewShotModule` judges it batch by batch.

    Args:
        head: fitted.
        features: (N, D).
        labels: (N,).
        metric: empty; it is emptied again.
        batch_size: features that are looked at together.
        seen_classes: see `lit_modules.recognition.judge`.
    """
    device = next(iter(head.state.values())).device
    for rows in torch.arange(len(labels)).split(batch_size):
        seen = features[rows].float().to(device)
        with full_precision(seen):
            metric.update(head.predict(seen).cpu(), labels[rows], rows)
    return judge(metric, seen_classes)
