"""Data that are features already: arrays instead of images, and the facts that heads and reports ask for."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.epoch_loaders import EpochLoaders
from datamodules.images.source import Batch
from datamodules.sampling.randomness import Stream, random_integers
from records.errors import UserError

UnitLength = Literal["check", "scale", "keep"]
UNIT_LENGTH: tuple[UnitLength, ...] = ("check", "scale", "keep")
# Rounding to half precision moves the length of a 512-wide row by less than 1e-3.
LENGTH_TOLERANCE = 1e-2
SHOWN = 5


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of one split.

    Args:
        features: float32 (N, D), or (N, V, D) for V augmented views of each sample.
        labels: int64 (N,), or float (N, C) multi-hot.
    """

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """Width D."""
        return self.features.shape[-1]


@dataclass(frozen=True)
class FeatureData:
    """A whole data set of features.

    Args:
        sets: split to its features: "train", the splits of the test, and those of a validation where there is one.
        class_names: name of every class, C of them.
        text_features: float32 (C, D), what the classes' descriptions encode to; None where there are none.
        unlabelled_features: float32 (M, D), for heads that look at unlabelled images; None: those of the test.
        seen_classes: bool (C,), the classes that have training samples by design; None: no class is held back.
    """

    sets: Mapping[str, FeatureSet]
    class_names: tuple[str, ...]
    text_features: Tensor | None = None
    unlabelled_features: Tensor | None = None
    seen_classes: Tensor | None = None


@dataclass(frozen=True)
class FeatureView(Dataset[Batch]):
    """One split of features in one epoch, as a data loader reads it; of several views one is drawn per sample."""

    data: FeatureSet
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: int) -> Batch:
        """One sample: feature (D,), label, index."""
        return {key: value[0] for key, value in self.__getitems__([draw]).items()}

    def __getitems__(self, draws: list[int]) -> Batch:
        """Read a batch: feature float32 (B, D), label, index int64 (B,); `draws` as in `ImageView.__getitems__`."""
        numbers = np.asarray(draws, dtype=np.int64)
        index = torch.from_numpy(numbers % max(len(self), 1))
        features = self.data.features[index]
        if features.ndim == 3:
            view = random_integers(features.shape[1], self.seed, self.epoch, Stream.FEATURE_VIEW, numbers)
            features = features[torch.arange(len(numbers)), torch.from_numpy(view)]
        return {"feature": features, "label": self.data.labels[index], "index": index}


class FeatureDataModule(EpochLoaders):
    """Loaders of features and the arrays themselves; a source of features adds `load`.

    Batches hold `feature` float32 (B, D), `label` and `index`. Heads that are fitted at once take the arrays instead:
    `support_features`, `support_labels`, `text_features`, `unlabelled_features`, `validation_features`,
    `validation_labels`, `seen_classes`.

    Args:
        seed: the run's seed, for orders and for the view that is drawn where a sample has several.
        batch_size: training samples per batch and rank.
        eval_batch_size: upper bound of evaluation samples per batch and rank; None takes `batch_size`.
        num_workers: loading processes.
        image_size: side of the images that features are made of, where they are made here; None is the model's own.
    """

    def __init__(
        self,
        *,
        seed: int,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        image_size: int | None = None,
    ) -> None:
        super().__init__(seed, batch_size, eval_batch_size, num_workers)
        self.image_size = image_size
        self._loaded: FeatureData | None = None

    @abstractmethod
    def load(self) -> FeatureData:
        """Read or make the features, whole; called once.

        Raises:
            UserError: files are missing or damaged, or features are not fit for use.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read the features, once; every stage needs the same."""
        if self._loaded is None:
            data = self.load()
            check_feature_data(data)
            self._loaded = data

    @property
    def data(self) -> FeatureData:
        """The whole data set; read at the first use."""
        self.setup()
        assert self._loaded is not None
        return self._loaded

    @property
    def evaluation_protocol(self) -> dict[str, str | int]:
        """The choices a figure depends on beside the data, for the record; none here."""
        return {}

    @property
    def val_splits(self) -> tuple[str, ...]:
        """`val`; empty without a validation part."""
        return ("val",) if self.has_validation else ()

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`test`."""
        return ("test",)

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part."""
        return "val" in self.data.sets

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of every split."""
        return {split: len(part) for split, part in self.data.sets.items()}

    @property
    def num_features(self) -> int:
        """Width D of the features."""
        return self.data.sets["train"].width

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of every class, C of them."""
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several classes."""
        return self.support_labels.ndim == 2

    @property
    def class_counts(self) -> Tensor:
        """Training samples of each class, int64 (C,)."""
        labels = self.support_labels
        return (labels > 0).sum(dim=0) if self.multi_label else torch.bincount(labels, minlength=self.num_classes)

    @property
    def fingerprint(self) -> str:
        """Sha256 over features and labels of every split, and over the text features."""
        digest = hashlib.sha256()
        for split, part in sorted(self.data.sets.items()):
            digest.update(f"{split} {tuple(part.features.shape)} {tuple(part.labels.shape)}".encode())
            for tensor in (part.features, part.labels):
                digest.update(tensor.contiguous().numpy().data)
        if self.text_features is not None:
            digest.update(self.text_features.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def support_features(self) -> Tensor:
        """Float32 (N, D), of the training samples; (N, V, D) where each has several views."""
        return self.data.sets["train"].features

    @property
    def support_labels(self) -> Tensor:
        """Labels of the training samples."""
        return self.data.sets["train"].labels

    @property
    def text_features(self) -> Tensor | None:
        """Float32 (C, D), or None where the classes have no descriptions."""
        return self.data.text_features

    @property
    def unlabelled_features(self) -> Tensor | None:
        """Float32 (M, D), what transductive heads may look at: the test features unless the data say otherwise."""
        given = self.data.unlabelled_features
        return self.data.sets[self.test_splits[0]].features if given is None else given

    @property
    def validation_features(self) -> Tensor | None:
        """Float32 (V, D), or None without a validation part."""
        return self.data.sets["val"].features if self.has_validation else None

    @property
    def validation_labels(self) -> Tensor | None:
        """Labels of the validation part, or None without one."""
        return self.data.sets["val"].labels if self.has_validation else None

    @property
    def seen_classes(self) -> Tensor | None:
        """Bool (C,), the classes that have training samples by design; None where no class is held back."""
        return self.data.seen_classes

    def labels(self, split: str) -> Tensor:
        """Labels of a split in its order.

        Raises:
            UserError: there is no such split.
        """
        return self._set(split).labels

    def features(self, split: str) -> Tensor:
        """Features of a split in its order, float32 (N, D).

        Raises:
            UserError: there is no such split.
        """
        return self._set(split).features

    def _set(self, split: str) -> FeatureSet:
        if split not in self.data.sets:
            raise UserError(f"there is no split {split!r}; the choices are {', '.join(self.data.sets)}")
        return self.data.sets[split]

    def training_view(self, epoch: int) -> FeatureView:
        """Make what the training loader of an epoch reads."""
        return FeatureView(self.data.sets["train"], self.seed, epoch)

    def evaluation_view(self, split: str) -> FeatureView:
        """Make what the loader of an evaluation split reads."""
        return FeatureView(self.data.sets[split])


def clean_features(features: Tensor, name: str, unit_length: UnitLength = "check") -> Tensor:
    """Turn features to float32 rows of unit length, or say which rows are not fit for use.

    Half precision is left at once: covariances, eigenvalues and Sinkhorn's divisions overflow in it.

    Args:
        features: (N, D) or (N, V, D), of any real type.
        name: what they are, for messages.
        unit_length: "check" takes rows of length 1 +- 0.01 and removes the rounding; "scale" takes any length above
            0; "keep" leaves lengths alone.

    Raises:
        UserError: a wrong shape or type, values that are no finite numbers, rows of length 0, or, with "check", rows of
            another length; with their number and the first positions.
    """
    if unit_length not in UNIT_LENGTH:
        raise UserError(f"data.unit_length is {unit_length!r}; the choices are {', '.join(UNIT_LENGTH)}")
    if features.ndim not in (2, 3) or not features.is_floating_point() or not features.shape[-1]:
        shape = f"{features.dtype} {tuple(features.shape)}"
        raise UserError(f"{name} is {shape}; features are floats of shape (N, D), or (N, V, D) for V views")
    rows = features.float()
    _refuse(
        ~torch.isfinite(rows).all(dim=-1),
        f"{name} holds values that are no finite numbers (half precision overflows above 65504)",
        "Extract them anew in float32",
    )
    lengths = rows.norm(dim=-1, keepdim=True)
    _refuse(lengths[..., 0] == 0, f"{name} has rows of length 0", "They have no direction: remove or extract them anew")
    if unit_length == "check":
        off = (lengths[..., 0] - 1).abs() > LENGTH_TOLERANCE
        _refuse(off, f"{name} has rows that are not of unit length", "data.unit_length=scale divides them by it")
    return rows if unit_length == "keep" else rows / lengths


def _refuse(bad: Tensor, problem: str, mend: str) -> None:
    """Raise a UserError where a row of bool (N,) or (N, V) is marked."""
    marked = bad.reshape(len(bad), -1).any(dim=1).nonzero()[:, 0]
    if len(marked):
        shown = ", ".join(str(int(position)) for position in marked[:SHOWN])
        more = ", ..." if len(marked) > SHOWN else ""
        raise UserError(f"{problem}: {len(marked)} of {len(bad)}, at positions {shown}{more}. {mend}")


def check_feature_data(data: FeatureData) -> None:
    """Refuse splits that do not fit each other.

    Raises:
        UserError: widths differ between splits or from the text's, a split is empty, labels are out of range, or the
            number of descriptions is not the number of classes.
    """
    width, classes = data.sets["train"].width, len(data.class_names)
    for split, part in data.sets.items():
        if not len(part):
            raise UserError(f"the split {split!r} of the features is empty")
        if part.width != width:
            raise UserError(
                f"the features of {split!r} are {part.width} wide and those of 'train' {width}: they come from "
                "different encoders; extract all of them with one"
            )
        if len(part.labels) != len(part):
            raise UserError(f"{split!r} has {len(part)} rows of features and {len(part.labels)} labels")
        if split != "train" and part.features.ndim != 2:
            raise UserError(
                f"the features of {split!r} are of shape {tuple(part.features.shape)}; several views are for training "
                "samples alone, an evaluated sample has one: (N, D)"
            )
        _check_labels(part.labels, split, classes)
    for name, rows in (("text features", data.text_features), ("unlabelled features", data.unlabelled_features)):
        if rows is not None and rows.shape[-1] != width:
            raise UserError(
                f"the {name} are {rows.shape[-1]} wide and the image features {width}: they come from different "
                "encoders; take both from one"
            )
    if data.text_features is not None and len(data.text_features) != classes:
        raise UserError(f"there are {len(data.text_features)} rows of text features for {classes} classes")
    if data.seen_classes is not None and len(data.seen_classes) != classes:
        raise UserError(f"seen_classes has {len(data.seen_classes)} entries for {classes} classes")


def _check_labels(labels: Tensor, split: str, classes: int) -> None:
    if labels.ndim == 2 and labels.shape[1] == classes:
        return
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(
            f"the labels of {split!r} are {labels.dtype} {tuple(labels.shape)}; they are whole numbers (N,)"
        )
    outside = (labels < 0) | (labels >= classes)
    _refuse(outside, f"the labels of {split!r} lie outside 0 .. {classes - 1}", "There is a name for each class")
