"""A classifier trained anew on a trained backbone: the old one is kept, judged beside it or together with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.classifier import fold_class_scale
from lit_modules.longtail.ensemble import TEMPERATURE_PAIRS, EnsembleRule, ensemble_scores
from lit_modules.metrics.per_class import RecognitionResult
from records.errors import UserError
from records.notices import RunWarning

Settings = Mapping[str, float]
Judged = tuple[Outputs, Tensor, Tensor]

OLD_CLASSIFIER = "old_classifier"
"""Where a checkpoint holds the classifier that training started from, a dict of tensors."""
CHOSEN = "chosen_settings"
"""Where a checkpoint holds what was chosen on the validation part, a dict of numbers."""


class RetrainedClassifier(LongTailModule):
    """A classifier on a backbone that `init_from` has loaded, judged before and after its training.

    With a frozen backbone the old classifier, kept as it was loaded, judges the same features: the test logs
    `test/before_NAME` beside `test/NAME`, and keeps its result for the picture of old recalls against new.

    A method that judges by numbers of its own (`settings`) may choose them among `candidates` on the validation part:
    those with the largest mean recall, the first of equal ones. They are chosen anew after every validation, kept in
    checkpoints, and logged beside the metrics.

    Args:
        reinitialise: start the classifier anew in place of going on from the one loaded.

    Raises:
        UserError: settings are to be chosen, and there is no validation part.
    """

    settings_key: ClassVar[str] = "task.temperatures=given"

    def __init__(self, *, reinitialise: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.settings: Settings = {}
        self.candidates: Sequence[Settings] = ()
        self.before_metric = deepcopy(self.metric)
        self.recognition_before: RecognitionResult | None = None
        # in lists, so that they are no parts of this module: neither trained nor in its state
        self._old: list[nn.Module] = []
        self._fresh = [deepcopy(self.classifier)] if reinitialise else []
        self._is_chosen = False
        self._validation: list[Judged] = []

    def judged(self, outputs: Outputs, settings: Settings) -> Tensor:
        """Return what is judged, (B, C), with the settings of the method."""
        return outputs["logits"]

    def scores(self, outputs: Outputs) -> Tensor:
        """Return what is judged, (B, C), with the settings now in force."""
        return self.judged(outputs, self.settings)

    @property
    def has_old_classifier(self) -> bool:
        """Whether a whole classifier came with the backbone."""
        return bool(self._old)

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Keep the classifier that was loaded, where it was loaded whole, and start anew where that is asked for."""
        wanted = {f"classifier.{name}" for name, _ in self.classifier.named_parameters()}
        if wanted <= set(loaded) and not any(name.startswith("classifier.") for name in unused):
            self._old = [_frozen_copy(self.classifier)]
        if self._fresh:
            self.classifier.load_state_dict(self._fresh[0].state_dict())

    def take_class_scale(self, scale: Tensor) -> bool:
        """Fold the factors (C,) into the old classifier, and into the new one unless that starts anew.

        Where they cannot be folded there is no old classifier: without them it would be none that was ever trained.

        Returns:
            Whether they can.
        """
        loaded = [*self._old, *([] if self._fresh else [self.classifier])]
        is_taken = all(fold_class_scale(classifier, scale) for classifier in loaded)
        if not is_taken:
            self._old = []
        return is_taken

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C); in evaluation the old classifier's `old_logits` (B, C) too."""
        outputs = super().head(features)
        if self._old and not self.training:
            outputs["old_logits"] = self._old[0].to(features.device)(outputs["features"])
        return outputs

    def on_fit_start(self) -> None:
        """Check what training with this backbone allows; drop an old classifier whose features are going to change."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.candidates and not data.has_validation:
            raise self._without_validation()
        if self._old and not self.is_backbone_frozen:
            warnings.warn(
                "freeze=none: the features change with the training, so the old classifier cannot be judged on them "
                "and nothing is reported of before; choose freeze=backbone, or test the run it came from",
                RunWarning,
                stacklevel=2,
            )
            self._old = []

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch, or what they are made of where settings are chosen first."""
        if self.candidates:
            self._validation.append(self._evaluated(batch))
        else:
            super().validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Choose the settings where they are to be chosen; log the metrics of the validation part as `val/NAME`."""
        if self.candidates:
            self._choose(self._validation)
            for outputs, label, index in self._validation:
                self.metric.update(self.scores(outputs), label, index)
            self._validation = []
        super().on_validation_epoch_end()

    def on_test_start(self) -> None:
        """Choose the settings of a classifier that no validation has preceded, as with freeze=all."""
        if not self.candidates or self._is_chosen:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not data.has_validation:
            raise self._without_validation()
        with self.trainer.precision_plugin.forward_context():
            batches = (batch for loader in data.val_dataloader() for batch in loader)
            self._choose([self._evaluated(self.transfer_batch_to_device(one, self.device, 0)) for one in batches])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the predictions of one batch, those of the old classifier too."""
        outputs, label, index = self._evaluated(batch)
        self.metric.update(self.scores(outputs), label, index)
        if self._old:
            self.before_metric.update(outputs["old_logits"], label, index)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the old classifier and the chosen settings."""
        if self._old:
            checkpoint[OLD_CLASSIFIER] = self._old[0].state_dict()
        if self._is_chosen:
            checkpoint[CHOSEN] = dict(self.settings)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the old classifier and the chosen settings."""
        if OLD_CLASSIFIER in checkpoint:
            old = _frozen_copy(self.classifier)
            old.load_state_dict(checkpoint[OLD_CLASSIFIER])
            self._old = [old]
        if self.candidates and CHOSEN in checkpoint:
            self.settings, self._is_chosen = checkpoint[CHOSEN], True

    def _evaluated(self, batch: Batch) -> Judged:
        return self(batch), batch["label"], batch["index"]

    def _choose(self, evaluated: Sequence[Judged]) -> None:
        """Take the settings with the largest mean recall over the classes there are, on all ranks together."""
        counts = torch.stack([self._hits(evaluated, settings) for settings in self.candidates])
        counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        self.settings = self.candidates[best_recalls(counts)]
        self._is_chosen = True

    def _hits(self, evaluated: Iterable[Judged], settings: Settings) -> Tensor:
        """Return the hits and the samples of each class, int64 (2, C)."""
        counts = torch.zeros(2, self.labels.num_classes, dtype=torch.int64, device=self.device)
        for outputs, label, _ in evaluated:
            hit = self.judged(outputs, settings).argmax(dim=1) == label
            counts[0] += torch.bincount(label[hit], minlength=self.labels.num_classes)
            counts[1] += torch.bincount(label, minlength=self.labels.num_classes)
        return counts

    def further_metrics(self, stage: str) -> dict[str, float]:
        """Return what the old classifier scored on the test part, `before_NAME`, and the settings chosen."""
        before = self._before() if stage == "test" and self._old else {}
        return {**before, **(self.settings if self._is_chosen else {})}

    def _before(self) -> dict[str, float]:
        self.recognition_before = self.before_metric.compute()
        self.before_metric.reset()
        return {f"before_{name}": value for name, value in self.recognition_before.metrics.items()}

    def _without_validation(self) -> UserError:
        names = ", ".join(self.candidates[0])
        return UserError(
            f"{names} are to be chosen on the validation part, and these data have none: hold one out "
            f"(data.val_fraction=0.1, or data.fold=0), or give them ({self.settings_key})"
        )


class EnsembledClassifier(RetrainedClassifier):
    """A re-trained classifier that may be judged together with the old one.

    Args:
        ensemble: what of the two is averaged, `prob` or `logit`; None judges the new one alone.
        t1: temperature of the new classifier.
        t2: temperature of the old one.
        weight: share of the new one, in [0, 1].
        temperatures: `given`, or chosen on the `validation` part.

    Raises:
        UserError: an ensemble without an old classifier, or temperatures to be chosen without an ensemble.
        ValueError: a temperature or the share is out of range.
    """

    def __init__(
        self,
        *,
        ensemble: EnsembleRule | None = None,
        t1: float = 1.0,
        t2: float = 1.0,
        weight: float = 0.5,
        temperatures: Literal["given", "validation"] = "given",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value in (("t1", t1), ("t2", t2)):
            if not value > 0:
                raise ValueError(f"task.{name} must be above 0, not {value}")
        if not 0 <= weight <= 1:
            raise ValueError(f"task.weight must lie in [0, 1], not {weight}")
        if temperatures == "validation" and ensemble is None:
            raise UserError("task.temperatures=validation: there is no ensemble; add task.ensemble=prob or logit")
        self.ensemble = ensemble
        self.weight = weight
        self.settings = {"t1": t1, "t2": t2}
        self.candidates = TEMPERATURE_PAIRS if temperatures == "validation" else ()

    def new_scores(self, outputs: Outputs) -> Tensor:
        """Return what is judged of the new classifier, (B, C)."""
        return outputs["logits"]

    def judged(self, outputs: Outputs, settings: Settings) -> Tensor:
        """Return the scores (B, C) of the new classifier, or of both."""
        new = self.new_scores(outputs)
        if self.ensemble is None or "old_logits" not in outputs:
            return new
        return ensemble_scores(new, outputs["old_logits"], self.ensemble, weight=self.weight, **settings)

    def on_fit_start(self) -> None:
        """Check that there is an old classifier for an ensemble, and that its features stay."""
        self._check_ensemble()
        super().on_fit_start()

    def on_test_start(self) -> None:
        """Check that there is an old classifier for an ensemble; choose temperatures that are not chosen yet."""
        self._check_ensemble()
        super().on_test_start()

    def _check_ensemble(self) -> None:
        if self.ensemble is None:
            return
        if not self._old:
            raise UserError(
                f"task.ensemble={self.ensemble}: there is no old classifier to join the new one; start from a run or a "
                "checkpoint whose classifier fits this task's (init_from=RUN, task.classifier as in that run), or set "
                "task.ensemble=null"
            )
        if self.trainer.training and not self.is_backbone_frozen:
            raise UserError(
                f"task.ensemble={self.ensemble}: both classifiers must see the same features; add freeze=backbone, or "
                "freeze=all to evaluate without training"
            )


def best_recalls(counts: Tensor) -> int:
    """Return which of K candidates has the largest mean recall, the first of equal ones.

    `counts` (K, 2, C) are the hits and the samples of each class; classes without samples are left out.
    """
    hits, samples = counts[:, 0].double(), counts[:, 1]
    present = samples[0] > 0
    means = (hits[:, present] / samples[:, present]).mean(dim=1)
    # a sum of quotients may differ in its last bit between equal candidates
    return int((means >= means.max() - 1e-12).nonzero()[0])


def _frozen_copy(classifier: nn.Module) -> nn.Module:
    return deepcopy(classifier).requires_grad_(False).eval()
