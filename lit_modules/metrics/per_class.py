"""Recognition of every class as a metric: a torchmetrics class over `recognition` and `calibration`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_modules.metrics.calibration import Calibration, calibrate, calibrated_together
from lit_modules.metrics.recognition import (
    FLOOR,
    bootstrap_intervals,
    class_recalls,
    count_confusions,
    group_means,
    recall_metrics,
    shot_groups,
)
from records.errors import UserError
from records.notices import RunWarning

_UNKNOWN = -1
_STATES = {
    "prediction": torch.int64,
    "label": torch.int64,
    "index": torch.int64,
    "confidence": torch.float64,
}


@dataclass(frozen=True)
class RecognitionResult:
    """What an evaluation of a classifier found.

    Attributes:
        metrics: name to value, fractions in [0, 1]: `accuracy`, `balanced_accuracy`, `gm`, `hm`, `lowest_recall`,
            `ece`; `many`, `medium`, `few` where training counts are known and the group is not empty; the limits
            `accuracy_low`, `accuracy_high` and so on of `hm` and `lowest_recall` where there is a bootstrap; and the
            count `zero_recall_classes`.
        recalls: (C,) float64; NaN for a class without samples.
        confusion: (C, C) int64, rows are true classes, columns predicted ones.
        calibration: confidence against accuracy.
        class_counts: training images of each class, where they are known.
        groups: many, medium and few as bool (C,), where training counts are known.
        duplicates: how many repeated samples were left out.
    """

    metrics: dict[str, float]
    recalls: NDArray[np.float64]
    confusion: NDArray[np.int64]
    calibration: Calibration
    class_counts: tuple[int, ...] | None
    groups: dict[str, NDArray[np.bool_]]
    duplicates: int

    @property
    def num_samples(self) -> int:
        """Number of different samples that were judged."""
        return int(self.confusion.sum())


@dataclass(frozen=True)
class PooledRecognition:
    """Several evaluations of a classifier on the same classes as one: what their samples say together.

    Attributes:
        confusion, calibration, class_counts, groups: see `RecognitionResult`; counts and groups are those of the first.
    """

    confusion: NDArray[np.int64]
    calibration: Calibration
    class_counts: tuple[int, ...] | None
    groups: dict[str, NDArray[np.bool_]]

    @property
    def recalls(self) -> NDArray[np.float64]:
        """(C,) float64; NaN for a class without samples."""
        return class_recalls(self.confusion)


def pooled(parts: Sequence[RecognitionResult | PooledRecognition]) -> PooledRecognition:
    """Take evaluations on the same classes together, one at least; a sample of several of them counts each time."""
    return PooledRecognition(
        np.sum([one.confusion for one in parts], axis=0),
        calibrated_together([one.calibration for one in parts]),
        parts[0].class_counts,
        parts[0].groups,
    )


class _Sealed:
    """A result that is handed on as it is."""

    def __init__(self, result: RecognitionResult) -> None:
        self.result = result


class ClassRecognition(Metric):
    """Accuracy, recalls and their means, groups by training counts, calibration, bootstrap intervals.

    The states are one prediction and one confidence a sample. Ranks gather them; samples that came twice (a padded
    batch) are dropped by index and all are ordered by index, so any number of ranks and any batches give the same
    digits.

    Args:
        many_above: classes with more training images are "many".
        few_below: classes with fewer training images are "few"; those between are "medium".
        floor: what a smaller recall counts as in `gm` and `hm`, in [0, 1); `lowest_recall` is never floored.
        bins: bins of the calibration error.
        bootstrap: drawn test parts for the intervals; 0 for none.
        seed: of the bootstrap.

    Raises:
        UserError: a value is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    num_classes: Tensor

    def __init__(
        self,
        many_above: int = 100,
        few_below: int = 20,
        floor: float = FLOOR,
        bins: int = 15,
        bootstrap: int = 1000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_settings(many_above, few_below, floor, bins, bootstrap)
        self.many_above = many_above
        self.few_below = few_below
        self.floor = floor
        self.bins = bins
        self.bootstrap = bootstrap
        self.seed = seed
        self.class_counts: tuple[int, ...] | None = None
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("num_classes", default=torch.tensor(_UNKNOWN), dist_reduce_fx="max")

    def group_by(self, class_counts: Sequence[int]) -> None:
        """Take the training images of each class, C of them, for `many`, `medium` and `few`."""
        self.class_counts = tuple(int(count) for count in class_counts)

    def update(self, logits: Tensor, label: Tensor, index: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: (B, C), real; the softmax of a row gives its confidence. -inf excludes a class.
            label: (B,) integers in 0 .. C - 1.
            index: (B,) integers, the samples' positions in their split; a position that came before is dropped.

        Raises:
            ValueError: the shapes do not go together, or C is not the number of classes before.
            TypeError: labels or index are not integers.
            UserError: a label is outside 0 .. C - 1, or there are more or fewer classes than training counts.
        """
        _check_batch(logits, label, index)
        self._note_classes(logits.shape[1])
        _check_labels(label, logits.shape[1])
        # float64, so that half-precision logits do not round the confidence a second time
        confidence = logits.detach().double().softmax(dim=1).amax(dim=1)
        self._state("prediction").append(logits.argmax(dim=1))
        self._state("label").append(label.to(torch.int64))
        self._state("index").append(index.to(torch.int64))
        self._state("confidence").append(confidence)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks; one without samples gives nothing, of the right type."""
        for name, dtype in _STATES.items():
            state = self._state(name)
            if isinstance(state, list) and not state:
                state.append(torch.empty(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> RecognitionResult:
        """Compute all metrics from what was taken in.

        Raises:
            ValueError: nothing was taken in.
            UserError: a sample's logits were NaN or +inf.

        Warns:
            RunWarning: a class has no samples, or samples came more than once.
        """
        index = self._gathered("index")
        if len(index) == 0:
            raise ValueError("no sample was taken in: call update() before compute()")
        unique, first = np.unique(index, return_index=True)
        prediction, label, confidence = (self._gathered(name)[first] for name in ("prediction", "label", "confidence"))
        _check_finite(confidence, unique)
        confusion = count_confusions(label, prediction, int(self.num_classes))
        calibration = calibrate(confidence, prediction == label, self.bins)
        result = RecognitionResult(
            metrics=self._metrics(confusion, calibration),
            recalls=class_recalls(confusion),
            confusion=confusion,
            calibration=calibration,
            class_counts=self.class_counts,
            groups=self._groups(),
            duplicates=len(index) - len(unique),
        )
        _warn_of_gaps(result)
        return result

    def _metrics(self, confusion: NDArray[np.int64], calibration: Calibration) -> dict[str, float]:
        metrics = recall_metrics(confusion, self.floor)
        metrics |= group_means(class_recalls(confusion), self._groups())
        metrics["ece"] = calibration.expected_error
        if self.bootstrap:
            for name, (low, high) in bootstrap_intervals(confusion, self.floor, self.bootstrap, self.seed).items():
                metrics |= {f"{name}_low": low, f"{name}_high": high}
        return metrics

    def _groups(self) -> dict[str, NDArray[np.bool_]]:
        return {} if self.class_counts is None else shot_groups(self.class_counts, self.many_above, self.few_below)

    def _wrap_compute(self, compute: Callable[[], RecognitionResult]) -> Callable[[], RecognitionResult]:
        # torchmetrics walks through what compute returns to squeeze tensors and refuses frozen dataclasses
        wrapped = super()._wrap_compute(lambda: _Sealed(compute()))
        return wraps(compute)(lambda: wrapped().result)

    def _note_classes(self, columns: int) -> None:
        known = int(self.num_classes)
        if known not in (_UNKNOWN, columns):
            raise ValueError(f"logits have {columns} classes, those before had {known}: one evaluation has one number")
        if self.class_counts is not None and len(self.class_counts) != columns:
            raise UserError(
                f"logits have {columns} classes, and training counts are known for {len(self.class_counts)}: the "
                "classifier does not belong to these data (data=, or a checkpoint of other data)"
            )
        self.num_classes = torch.full_like(self.num_classes, columns)

    def _gathered(self, name: str) -> NDArray[Any]:
        state = self._state(name)
        if isinstance(state, list) and not state:
            return torch.empty(0, dtype=_STATES[name]).numpy()
        return dim_zero_cat(state).cpu().numpy()

    def _state(self, name: str) -> list[Tensor]:
        return getattr(self, name)


def _check_settings(many_above: int, few_below: int, floor: float, bins: int, bootstrap: int) -> None:
    if few_below > many_above + 1 or few_below < 0:
        raise UserError(
            f"metric.few_below is {few_below} and metric.many_above {many_above}; few_below must lie in "
            "0 .. many_above + 1, or a class would be in both groups"
        )
    if not 0 <= floor < 1:
        raise UserError(f"metric.floor is {floor}; it must lie in [0, 1)")
    if bins < 1:
        raise UserError(f"metric.bins is {bins}; it must be at least 1")
    if bootstrap < 0:
        raise UserError(f"metric.bootstrap is {bootstrap}; it must be 0 (no intervals) or more")


def _check_batch(logits: Tensor, label: Tensor, index: Tensor) -> None:
    if logits.ndim != 2 or label.shape != logits.shape[:1] or index.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)}, label {tuple(label.shape)} and index {tuple(index.shape)} do not go "
            "together: they are (B, C), (B,) and (B,)"
        )
    for name, tensor in (("label", label), ("index", index)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {tensor.dtype}: it holds integers")


def _check_labels(label: Tensor, num_classes: int) -> None:
    outside = label[(label < 0) | (label >= num_classes)]
    if len(outside):
        raise UserError(
            f"a sample has class {int(outside[0])}, and the classifier knows 0 .. {num_classes - 1}: it does not "
            "belong to these data"
        )


def _check_finite(confidence: NDArray[np.float64], index: NDArray[np.int64]) -> None:
    bad = index[np.isnan(confidence)]
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(index)} samples have logits with NaN or infinite values, the first at index "
            f"{bad[0]}: the network diverged (lower optim.lr), or an image is broken"
        )


def _warn_of_gaps(result: RecognitionResult) -> None:
    missing = np.flatnonzero(np.isnan(result.recalls))
    if len(missing):
        warnings.warn(
            f"{len(missing)} of {len(result.recalls)} classes have no sample in an evaluated part, the first is class "
            f"{missing[0]}: means over classes leave them out",
            RunWarning,
            stacklevel=3,
        )
    if result.duplicates:
        warnings.warn(
            f"{result.duplicates} samples were evaluated more than once and are counted once: the loaders hand out "
            "samples twice, as a sampler that pads for several ranks does",
            RunWarning,
            stacklevel=3,
        )
