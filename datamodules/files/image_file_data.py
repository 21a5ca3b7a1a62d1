"""What data sets of image files share, whatever lists them: a look at the files, duplicates, sizes, what is odd."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray

from datamodules.augmentation.framing import FrameAndFlip
from datamodules.base import ImageDataModule, LabelledImages
from datamodules.files.listing import SHOWN, Fault, Listing, positions_also_in, refuse
from datamodules.files.retrieval_list_files import LIST_FILES, write_list
from datamodules.images.image_files import (
    RESAMPLINGS,
    SCANS,
    CentreCut,
    ImageFiles,
    Resampling,
    Scan,
    content_digests,
    default_resize,
    find_unreadable,
)
from datamodules.sampling.splits import Splits, label_fingerprint, names_fingerprint
from records.errors import UserError
from records.notices import RunWarning

Unreadable = Literal["error", "drop"]
Duplicates = Literal["report", "exclude", "error"]
DuplicatesBy = Literal["path", "content"]


class ImageFileData(ImageDataModule):
    """A data set of image files, read when they are needed; a source of listings adds `read_listing` and `draw`.

    Every file is looked at before the run (`scan`); what cannot be read is named, or left out and counted. Test
    images that are also in another part, and validation images that are trained on, are found and reported, or taken
    out of the other part.

    Args:
        root: folder that the files lie below.
        image_dir: what the listed names are relative to: a folder below `root`, or absolute; None for `root`.
        resize: shorter side before the crop of the image size; None takes 256 for 224, and in proportion.
        resampling: how images are scaled, `bilinear` or `bicubic`; weights are judged best as they were trained.
        scan: how every file is looked at before the run: `exists`, `header`, or `pixels` (all of it is decoded).
        unreadable: a file that the scan finds wanting stops the run (`error`) or is left out (`drop`).
        duplicates: test images that are also in another part, and validation images that are also trained on, are
            reported (`report`), taken out of that part (`exclude`), or stop the run (`error`).
        duplicates_by: two images are the same by their path, or by the content of their files as well.
        expected_sizes: sizes of the protocol's parts (`train`, `query`, ...) and its number of `classes`; a
            difference is reported.
        lists_dir: also write the parts as train.txt, test.txt and database.txt into this folder.
        settings: see `ImageDataModule`.

    Raises:
        UserError: a value is not one of the choices.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        image_dir: str | Path | None = None,
        resize: int | None = None,
        resampling: Resampling = "bilinear",
        scan: Scan = "exists",
        unreadable: Unreadable = "error",
        duplicates: Duplicates = "report",
        duplicates_by: DuplicatesBy = "path",
        expected_sizes: Mapping[str, int | None] | None = None,
        lists_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        _check_choice("resampling", resampling, get_args(Resampling))
        _check_choice("scan", scan, SCANS)
        _check_choice("unreadable", unreadable, get_args(Unreadable))
        _check_choice("duplicates", duplicates, get_args(Duplicates))
        _check_choice("duplicates_by", duplicates_by, get_args(DuplicatesBy))
        self.root = Path(root)
        self.image_folder = self.root if image_dir is None else self.root / image_dir
        self.resize = resize
        self.resampling: Resampling = resampling
        self.scan: Scan = scan
        self.unreadable = unreadable
        self.duplicates = duplicates
        self.duplicates_by = duplicates_by
        self.expected_sizes = dict(expected_sizes or {})
        self.lists_dir = None if lists_dir is None else Path(lists_dir)
        self._listing: Listing | None = None

    @classmethod
    def centre_cut(cls, settings: Mapping[str, Any], image_size: int) -> CentreCut:
        """Return how an image file is framed that is judged as these data's own are."""
        resize = settings.get("resize") or default_resize(image_size)
        return CentreCut(resize, RESAMPLINGS[settings.get("resampling", "bilinear")])

    @abstractmethod
    def read_listing(self) -> Listing:
        """Read which images there are; called once.

        Raises:
            UserError: with every fault that was found.
        """

    def draw(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw the parts from `split_seed` where the listing names none.

        Raises:
            UserError: it should have named them.
        """
        raise UserError(f"{self.protocol_name}: the listing names no parts")

    def build_augmentation(self, settings: Mapping[str, object] | None) -> FrameAndFlip | None:
        """Build the random change of training images that the key `augment` asks for."""
        return FrameAndFlip.from_config(settings)

    def setup(self, stage: str | None = None) -> None:
        """Read, look at and split the data, once, and say what is odd about them."""
        if self._loaded is not None:
            return
        super().setup(stage)
        self._say_what_is_odd()
        if self.lists_dir is not None:
            rank_zero_only(self.write_lists)(self.lists_dir)

    def load(self) -> LabelledImages:
        """Look at the listed files, and leave out or refuse those that cannot be read."""
        listing = self._readable(self.listing)
        if not listing.names:
            raise UserError(f"no image is left of the {len(self.listing.names):,} listed below {self.image_folder}")
        if len(listing.class_names) < 2:
            raise UserError(
                f"the data have {len(listing.class_names)} class ({', '.join(listing.class_names)}): with a single one "
                "every image is right for every other; two at least are needed"
            )
        self._listing = listing
        how = RESAMPLINGS[self.resampling]
        source = ImageFiles(self.image_folder, listing.names, listing.labels, self.image_size, self.resize, how)
        return LabelledImages(source, listing.class_names)

    def _readable(self, listing: Listing) -> Listing:
        paths = [self.image_folder / name for name in listing.names]
        bad = find_unreadable(paths, self.scan)
        if not bad:
            return listing
        if self.unreadable == "error":
            faults = [
                Fault(*listing.origins[place], "unreadable image", f"{paths[place]}: {reason}")
                for place, reason in bad.items()
            ]
            refuse(
                faults,
                f"Images are looked for below {self.image_folder} (data.root, data.image_dir); "
                "data.unreadable=drop leaves out what cannot be read.",
            )
        shown = "; ".join(f"{paths[place]}: {reason}" for place, reason in list(bad.items())[:SHOWN])
        warn(
            f"{len(bad):,} of {len(paths):,} images cannot be read and are left out (data.unreadable=drop); "
            f"the first: {shown}"
        )
        return listing.without(list(bad))

    @property
    def listing(self) -> Listing:
        """The images with labels and parts, without those that were left out; read at the first use."""
        if self._listing is None:
            self._listing = self.read_listing()
        return self._listing

    @property
    def has_validation(self) -> bool:
        """Whether a validation part is listed, or held out as a share or as a fold."""
        return super().has_validation or "validation" in self.listing.parts

    @property
    def drawn_by_seed(self) -> bool:
        """Whether `split_seed` has a say in the parts: where they are not listed, or a share or a fold is held out."""
        return not self.listing.parts or super().has_validation

    def data_fingerprint(self, labels: torch.Tensor) -> str:
        """Hash labels and names in their order: what positions rely on."""
        return names_fingerprint(self.listing.names, label_fingerprint(labels))

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take the listed parts, or draw them; then deal with test images that are in other parts as well."""
        if super().has_validation and "validation" in self.listing.parts:
            raise UserError(
                "the data list a validation part, and data.val_fraction or data.fold asks for another; "
                "set data.val_fraction=0 data.fold=null"
            )
        parts = dict(self.listing.parts) or self.draw(labels)
        for name in ("train", *self.evaluation_parts):
            if not len(parts.get(name, ())):
                raise UserError(f"the part {name!r} of {self.protocol_name} has no image")
        asked = self.evaluation_parts[0]
        return self._without_duplicates(parts, asked, [name for name in parts if name != asked])

    def _make_splits(self, labels: torch.Tensor) -> Splits:
        splits = super()._make_splits(labels)
        # the parts of a split file stand as they were written; others are held out by now
        if self.split_file is not None or "validation" not in splits.parts:
            return splits
        return replace(splits, parts=self._without_duplicates(dict(splits.parts), "validation", ["train"]))

    def _without_duplicates(
        self, parts: dict[str, torch.Tensor], asked: str, others: list[str]
    ) -> dict[str, torch.Tensor]:
        """Return the parts with what is said of, or done about, images of `asked` that the others hold as well."""
        groups = self._same_images
        for name in others:
            inside = positions_also_in(parts[asked], parts[name], groups)
            if not inside.any():
                continue
            shown = ", ".join(self.listing.names[place] for place in parts[asked][inside][:SHOWN].tolist())
            found = (
                f"{int(inside.sum()):,} of {len(inside):,} images of the part {asked!r} are also in {name!r} "
                f"(by {self.duplicates_by}), which makes figures too good; the first: {shown}"
            )
            if self.duplicates == "error":
                raise UserError(f"{found}. Take them out by data.duplicates=exclude, or allow them by =report")
            if self.duplicates == "report":
                warn(f"{found}. data.duplicates=exclude takes them out of {name!r}")
                continue
            twice = positions_also_in(parts[name], parts[asked], groups)
            if twice.all():
                raise UserError(f"{found}. data.duplicates=exclude would leave {name!r} empty; take =report")
            warn(f"{found}. {int(twice.sum()):,} images were taken out of {name!r} (data.duplicates=exclude)")
            parts[name] = parts[name][~twice]
        return parts

    @cached_property
    def _same_images(self) -> NDArray[np.int64]:
        """Give every image a number, int64 (N,), the same to images that are the same."""
        names = self.listing.names
        if self.duplicates_by == "path":
            # a.png and ./a.png are one file
            numbers: dict[str, int] = {}
            paths = (os.path.normpath(self.image_folder / name) for name in names)
            return np.array([numbers.setdefault(path, len(numbers)) for path in paths], dtype=np.int64)
        digests = content_digests(self.image_folder / name for name in names)
        return np.unique(np.array(digests), return_inverse=True)[1]

    def _say_what_is_odd(self) -> None:
        for text in (*self._unexpected_sizes(), *self._without_class(), *self._without_image()):
            warn(text)

    def _unexpected_sizes(self) -> list[str]:
        found = {**self.splits.sizes, "classes": self.num_classes}
        if "validation" in found and "validation" not in self.expected_sizes:
            found["train"] += found["validation"]
        texts = [
            f"{name}: {expected:,} expected, {found.get(name, 0):,} found"
            for name, expected in self.expected_sizes.items()
            if expected is not None and found.get(name, 0) != expected
        ]
        if not texts:
            return []
        differences = "; ".join(texts)
        return [f"the data differ from protocol {self.protocol_name} ({differences}); figures are not comparable"]

    def _without_class(self) -> list[str]:
        if not self.multi_label:
            return []
        counts = {name: int((self.labels(name).sum(dim=1) == 0).sum()) for name in self.sizes}
        shown = "; ".join(f"{count:,} of {self.sizes[name]:,} in {name}" for name, count in counts.items() if count)
        note = "no image is relevant to them or they to any (metric.empty_queries)"
        return [f"images without any class: {shown}; {note}"] if shown else []

    def _without_image(self) -> list[str]:
        empty = [name for name, count in zip(self.class_names, self.class_counts.tolist(), strict=True) if not count]
        if not empty:
            return []
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        return [f"{len(empty)} of {self.num_classes} classes have no training image: {', '.join(empty[:SHOWN])}{more}"]

    def write_lists(self, folder: Path) -> None:
        """Write the parts of this data set as lists of the field's format: names with multi-hot labels."""
        labels = self.data.source.labels
        hot = labels if self.multi_label else torch.nn.functional.one_hot(labels, self.num_classes)
        for part, positions in self.splits.parts.items():
            names = [self.listing.names[place] for place in positions.tolist()]
            write_list(folder / LIST_FILES.get(part, f"{part}.txt"), names, hot[positions])


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"data.{key} is {value!r}; the choices are {', '.join(choices)}")


def warn(text: str) -> None:
    """Warn of what a run on image files goes on with; the first process alone."""
    warnings.warn(text, RunWarning, stacklevel=3)
