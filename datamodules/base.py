"""What every data set shares: parts, loaders and the facts that models and reports ask for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from datamodules.augmentation.contrastive import ContrastiveAugmentation
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.augmentation.training import TrainingAugmentation
from datamodules.epoch_loaders import EpochLoaders
from datamodules.images.image_files import CentreCut
from datamodules.images.paired import UnlabelledView
from datamodules.images.source import Batch, ImageSource, ImageView
from datamodules.sampling.order import training_order
from datamodules.sampling.samplers import SamplingRule, check_epochs, draw_epoch
from datamodules.sampling.splits import (
    Splits,
    check_split_file,
    hold_out_fold,
    hold_out_validation,
    label_fingerprint,
    read_split_file,
    write_split_file,
)
from records.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """A data set before it is split.

    Args:
        source: images and labels by position.
        class_names: name of every class, C of them.
    """

    source: ImageSource
    class_names: tuple[str, ...]


class ImageDataModule(EpochLoaders):
    """Parts, loaders and facts of an image data set; a data set adds `load` and `draw_parts`.

    The order of an epoch is a pure function of (seed, epoch, rank), an augmentation of (seed, epoch,
    index), so that resuming, workers and ranks change nothing; the trainer has to reload the loaders every
    epoch (`reload_dataloaders_every_n_epochs=1`) and to leave the samplers alone
    (`use_distributed_sampler=False`).

    Args:
        image_size: side of the square images handed out, in pixels; None keeps the own resolution.
        seed: the run's seed, for orders and augmentations.
        batch_size: training images per batch and rank.
        eval_batch_size: upper bound of evaluation images per batch and rank; None takes `batch_size`.
        num_workers: loading processes; batches are the same with any number.
        augment: settings of `TrainingAugmentation` for training images; None or an empty mapping for none.
        views: how many augmented views of each training image a batch holds, under the key `views`.
        view_augment: settings of `ContrastiveAugmentation` for the views after the first; None takes its defaults.
        sampler: settings of `SamplingRule`; None draws every image once an epoch.
        epochs: epochs of the whole run, for a rule that starts late.
        val_fraction: share of the training part held out for validation, stratified by class; 0 for none.
        folds: number K of folds that the training part is dealt out to, stratified by class, for `fold`.
        fold: 0 .. K - 1, the fold held out for validation in place of the share `val_fraction`; None for no folds.
        split_seed: seed of the drawn parts and of the held-out share or folds.
        split_file: read the parts from this file in place of drawing them.
        split_dir: write the parts to a file in this folder; None writes nothing.

    Raises:
        UserError: a value is out of range.
    """

    evaluation_parts: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(
        self,
        *,
        image_size: int | None,
        seed: int,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        augment: Mapping[str, object] | None = None,
        views: int = 1,
        view_augment: Mapping[str, object] | None = None,
        sampler: Mapping[str, object] | None = None,
        epochs: int | None = None,
        val_fraction: float = 0.0,
        folds: int = 5,
        fold: int | None = None,
        split_seed: int = 0,
        split_file: str | Path | None = None,
        split_dir: str | Path | None = None,
    ) -> None:
        super().__init__(seed, batch_size, eval_batch_size, num_workers)
        self.image_size = image_size
        self.augmentation = self.build_augmentation(augment)
        self.views = views
        self.view_augmentation = ContrastiveAugmentation.from_config(view_augment)
        self.sampling_rule = SamplingRule.from_config(sampler)
        self.epochs = epochs
        self.val_fraction = float(val_fraction)
        self.folds = folds
        self.fold = fold
        self.split_seed = split_seed
        self.split_file = split_file
        self.split_dir = split_dir
        self._loaded: tuple[LabelledImages, Splits] | None = None
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"data.image_size is {self.image_size}; it must be at least 1")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}; it must lie in [0, 1)")
        if self.views < 1:
            raise UserError(f"data.views is {self.views}; it must be at least 1")
        check_epochs(self.sampling_rule, self.epochs)
        if self.folds < 2:
            raise UserError(f"data.folds is {self.folds}; it must be at least 2")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UserError(
                f"data.fold is {self.fold}; with data.folds={self.folds} it is one of 0 .. {self.folds - 1}"
            )

    @property
    @abstractmethod
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts, fit for a file name."""

    @abstractmethod
    def load(self) -> LabelledImages:
        """Read the data set, whole; called once.

        Raises:
            UserError: files are missing or damaged.
        """

    @abstractmethod
    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make the protocol's parts from `split_seed`: positions of "train" and of all `evaluation_parts`."""

    @property
    def drawn_by_seed(self) -> bool:
        """Whether `split_seed` has a say in the parts; not where the protocol's are official and none is held out."""
        return True

    def data_fingerprint(self, labels: torch.Tensor) -> str:
        """Hash what positions rely on: the labels in their order, and whatever else tells two data sets apart."""
        return label_fingerprint(labels)

    @classmethod
    def centre_cut(cls, settings: Mapping[str, Any], image_size: int) -> CentreCut:
        """Return how an image file is framed that is judged as these data's own are: whole, but for its longer side.

        Args:
            settings: the configuration of the data.
            image_size: side of the square images the network gets.
        """
        return CentreCut(image_size)

    def build_augmentation(self, settings: Mapping[str, object] | None) -> Augmentation | None:
        """Build the random change of training images that the key `augment` asks for."""
        return TrainingAugmentation.from_config(settings)

    def training_order(self, epoch: int) -> torch.Tensor:
        """Order the training split for this epoch, int64 positions; a sampling rule may repeat some.

        Raises:
            UserError: a sampling rule is asked for, and images have several classes.
        """
        if self.multi_label and self.sampling_rule.kind != "none":
            raise UserError(
                f"rule.sampler.kind is {self.sampling_rule.kind}, which draws by class, and the images of these data "
                "have several classes each; set rule=none"
            )
        return draw_epoch(self.sampling_rule, self.labels("train"), self.seed, epoch, self.epochs)

    def view(
        self,
        split: str,
        epoch: int = 0,
        augmentation: Augmentation | None = None,
        further_views: tuple[Augmentation, ...] = (),
        seed: int | None = None,
    ) -> ImageView:
        """Make what a loader reads of one split; `seed` is that of augmentations, the run's if None."""
        seed = self.seed if seed is None else seed
        return ImageView(self.data.source, self.positions(split), augmentation, seed, epoch, further_views)

    def unlabelled_loader(self, split: str, epoch: int) -> DataLoader[Batch]:
        """Make a loader of two random views of a split's images, shuffled and without labels, for this rank.

        Both views are those of contrastive learning (`view_augment`). What cannot be shared out evenly is left out, as
        in training (`TrainingBatches`).

        Returns:
            batches of `views` uint8 (2, B, 3, S, S) and `index` int64 (B,).
        """
        view = self.view(split, epoch, self.view_augmentation, (self.view_augmentation,))
        return self._training_loader(UnlabelledView(view), training_order(len(view), self.seed, epoch), epoch)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the data, once; every stage needs the same."""
        if self._loaded is not None:
            return
        self.prepare_data()
        data = self.load()
        splits = self._make_splits(data.source.labels)
        self._loaded = (data, splits)
        if self.split_dir is not None:
            rank_zero_only(write_split_file)(self.split_path, splits)

    def _make_splits(self, labels: torch.Tensor) -> Splits:
        seed = self.split_seed if self.drawn_by_seed else None
        splits = Splits(self.protocol_name, seed, 0.0, self.data_fingerprint(labels), {})
        if self.split_file is not None:
            return self._read_splits(splits, len(labels))
        splits = Splits(splits.protocol, splits.seed, 0.0, splits.data_fingerprint, self.draw_parts(labels))
        if self.fold is not None:
            return hold_out_fold(splits, labels, self.fold, self.folds, self.split_seed)
        if self.val_fraction == 0:
            return splits
        return hold_out_validation(splits, labels, self.val_fraction, self.split_seed)

    def _read_splits(self, wanted: Splits, size: int) -> Splits:
        assert self.split_file is not None
        splits = read_split_file(self.split_file)
        fold = None if self.fold is None else (self.fold, self.folds)
        share = self.val_fraction if fold is None else 0.0
        wanted = Splits(wanted.protocol, wanted.seed, share, wanted.data_fingerprint, {}, fold)
        validation = ("validation",) if self.has_validation else ()
        names = ("train", *validation, *self.evaluation_parts)
        check_split_file(splits, self.split_file, wanted, names, size)
        return splits

    @property
    def split_path(self) -> Path:
        """The file that `split_dir` asks for."""
        if self.split_dir is None:
            raise ValueError("split_dir is None: no split file is written")
        fold = "" if self.fold is None else f"-fold{self.fold}of{self.folds}"
        seed = f"-seed{self.split_seed}" if self.drawn_by_seed else ""
        return Path(self.split_dir) / f"{self.protocol_name}{seed}{fold}.json"

    @property
    def data(self) -> LabelledImages:
        """The whole data set; read at the first use."""
        self.setup()
        assert self._loaded is not None
        return self._loaded[0]

    @property
    def splits(self) -> Splits:
        """The parts of the data set; drawn or read at the first use."""
        self.setup()
        assert self._loaded is not None
        return self._loaded[1]

    @property
    def has_validation(self) -> bool:
        """Whether a validation part is held out, as a share or as a fold."""
        return self.fold is not None or self.val_fraction > 0

    @property
    def val_splits(self) -> tuple[str, ...]:
        """Splits of the validation loaders, in order; empty without a validation part."""
        return ("val",) if self.has_validation else ()

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits of the test loaders, in order."""
        return self.evaluation_parts

    @property
    def split_parts(self) -> dict[str, str]:
        """Which part of the data each split reads."""
        validation = {"val": "validation"} if self.has_validation else {}
        return {"train": "train", **validation, **{name: name for name in self.evaluation_parts}}

    def positions(self, split: str) -> torch.Tensor:
        """Place of each sample of a split in the data set, int64 (N,).

        Raises:
            UserError: there is no such split.
        """
        parts = self.split_parts
        if split not in parts:
            raise UserError(f"there is no split {split!r}; the choices are {', '.join(parts)}")
        return self.splits.parts[parts[split]]

    def labels(self, split: str) -> torch.Tensor:
        """Labels of a split in its order: int64 (N,), or float (N, C) multi-hot."""
        return self.data.source.labels[self.positions(split)]

    def pictures(self, split: str, positions: torch.Tensor) -> torch.Tensor:
        """Images of a split as they are stored, un-augmented and at their own resolution.

        Args:
            split: one of `sizes`.
            positions: int64 (n,), positions in the split (the batch's `index`).

        Returns:
            uint8 (n, 3, H, W).

        Raises:
            UserError: there is no such split.
        """
        return self.data.source.pictures(self.positions(split)[torch.as_tensor(positions)])

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
        """Whether an image may have several classes."""
        return self.data.source.labels.ndim == 2

    @property
    def class_counts(self) -> torch.Tensor:
        """Images of each class among those trained on, int64 (C,)."""
        labels = self.labels("train")
        if self.multi_label:
            return (labels > 0).sum(dim=0)
        return torch.bincount(labels, minlength=self.num_classes)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of every split."""
        return {split: len(self.positions(split)) for split in self.split_parts}

    @property
    def fingerprint(self) -> str:
        """Sha256 over the labels and all lists of positions."""
        return self.splits.fingerprint

    def training_view(self, epoch: int) -> ImageView:
        """Make what the training loader of an epoch reads."""
        further = (self.view_augmentation,) * (self.views - 1)
        return self.view("train", epoch, self.augmentation, further)

    def evaluation_view(self, split: str) -> ImageView:
        """Make what the loader of an evaluation split reads."""
        return self.view(split)


class RetrievalDataModule(ImageDataModule):
    """Data that are searched: evaluation loaders come in pairs, the queries and then the database.

    Validation queries are the held-out part, the validation database the images trained on. Test queries
    and database are the protocol's own: held-out images stay in the test database where the protocol has
    the training part in it.
    """

    evaluation_parts: ClassVar[tuple[str, ...]] = ("query", "database")

    @property
    def val_splits(self) -> tuple[str, ...]:
        """`val_query` and `val_database`; empty without a validation part."""
        return ("val_query", "val_database") if self.has_validation else ()

    @property
    def split_parts(self) -> dict[str, str]:
        """Which part of the data each split reads."""
        validation = {"val_query": "validation", "val_database": "train"} if self.has_validation else {}
        return {"train": "train", **validation, "query": "query", "database": "database"}
