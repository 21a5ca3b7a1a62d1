"""iBioHash (FGVC10 and FGVC11, CVPR 2023 and 2024): fine-grained hashing with 48 bits; see docs/ibiohash.md."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import torch

from datamodules.base import RetrievalDataModule
from datamodules.files.class_folders import folders_in
from datamodules.files.ibiohash_archive import (
    BROKEN_FILE,
    LEFT_OUT_FILE,
    SCAN_FILE,
    UNLABELLED,
    ClassFolders,
    Progress,
    csv_text,
    image_names,
    left_out,
    look_at_all,
    make_class_folders,
    read_left_out,
    without_doubling,
    write_text_of_paths,
)
from datamodules.files.image_file_data import ImageFileData
from datamodules.files.listing import SHOWN, Entry, Fault, Listing, gather, name_below, refuse
from datamodules.files.table_files import Columns, class_order, read_table
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import Splits, order_within_classes, stratified_hold_out
from records.errors import UserError
from records.notices import RunWarning

ClassFolderWay = Literal["link", "move"]
COLUMNS = Columns("image_id", "label")


@dataclass(frozen=True)
class Preparation:
    """What `mode=prepare` found and wrote.

    Attributes:
        counts: images by part, as they lie there.
        classes: number of classes.
        left_out: labelled images that are not trained on, with the reason.
        broken: images of query and gallery that cannot be read, with the reason.
        copies: images of query and gallery that are also in another part, by pair of parts.
        sizes: of the splits.
        class_folders: what became of the class folders, where they were asked for.
        folder: that holds what was written.
    """

    counts: dict[str, int]
    classes: int
    left_out: dict[str, str]
    broken: dict[str, str]
    copies: dict[str, int]
    sizes: dict[str, int]
    class_folders: ClassFolders | None
    folder: Path


class IBioHash(ImageFileData, RetrievalDataModule):
    """The contest's labelled images, with parts held out that mimic its query and gallery, which have no labels.

    `mode=prepare` looks at every file once and writes what is to be left out; without it images are taken as listed.
    Folder it reads: see `datamodules.files.ibiohash_archive`. Sizes printed by solutions of the contest: 400,000
    labelled images in 1,000 classes, 10,000 query images, about 90,000 gallery images.

    Of every class a share is held out for the test and another one for validation. Of either, `query_share` are
    queries and the rest is searched, as in the contest, where a tenth are queries; nothing that is searched was
    trained on.

    Args:
        table: of image and class, below `root`; without it the class folders in `image_dir` are read.
        query_dir: folder of the queries without labels, below `root`.
        gallery_dir: folder of the images that are searched for them.
        prepared_dir: what `mode=prepare` writes; None is `prepared` below `root`.
        test_fraction: share of each class held out for the test.
        query_share: share of each held-out class that queries.
        settings: see `ImageFileData`.

    Raises:
        UserError: a share is out of range.
    """

    def __init__(
        self,
        *,
        table: str = "train.csv",
        query_dir: str = "Query",
        gallery_dir: str = "Gallery",
        prepared_dir: str | Path | None = None,
        test_fraction: float = 0.05,
        query_share: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        for key, share in (("test_fraction", test_fraction), ("query_share", query_share)):
            if not 0 < share < 1:
                raise UserError(f"data.{key} is {share}; it must lie in (0, 1)")
        self.table = self.root / table
        self.unlabelled_folders = {"query": self.root / query_dir, "gallery": self.root / gallery_dir}
        self.prepared = self.root / "prepared" if prepared_dir is None else self.root / prepared_dir
        self.test_fraction = test_fraction
        self.query_share = query_share
        self.image_folder = without_doubling(self.image_folder)

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return f"ibiohash-stratified-{self.test_fraction:g}-query-{self.query_share:g}"

    @property
    def unlabelled_parts(self) -> tuple[str, ...]:
        """Parts without labels, which a submission is about: query and gallery."""
        return UNLABELLED

    def unlabelled_images(self, part: str) -> tuple[Path, tuple[str, ...]]:
        """Return the folder of a part without labels, and the names of its images, sorted.

        Raises:
            UserError: there is no such folder, or no image in it.
        """
        folder = without_doubling(self.unlabelled_folders[part])
        return folder, tuple(image_names(folder, f"data.{part}_dir"))

    def read_listing(self) -> Listing:
        """Read train.csv or the class folders, without what preparing left out."""
        listing = self.complete_listing
        reasons = read_left_out(self.prepared)
        places = [place for place, name in enumerate(listing.names) if name in reasons]
        if places:
            shown = "; ".join(f"{listing.names[place]}: {reasons[listing.names[place]]}" for place in places[:SHOWN])
            warnings.warn(
                f"{len(places):,} of {len(listing.names):,} labelled images are left out, as {LEFT_OUT_FILE} in "
                f"{self.prepared} says; the first: {shown}",
                RunWarning,
                stacklevel=2,
            )
        return listing.without(places)

    @cached_property
    def complete_listing(self) -> Listing:
        """All labelled images, as they are listed.

        Raises:
            UserError: there is neither a table nor a class folder, or lines are faulty, all of them counted.
        """
        if not self.table.is_file():
            return self._class_folders()
        listing = self._with_class_folders(read_table(self.table, COLUMNS, ",", None))
        outside = [
            Fault(*origin, "path outside the folder", name)
            for name, origin in zip(listing.names, listing.origins, strict=True)
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
        ]
        refuse(outside, f"image_id names files below {self.image_folder}.")
        return listing

    def _with_class_folders(self, listing: Listing) -> Listing:
        """Return the listing with names that lead into class folders, where the images lie in such."""
        labels = [listing.class_names[number] for number in listing.labels.tolist()]
        in_folders = [f"{label}/{name}" for name, label in zip(listing.names, labels, strict=True)]
        is_plain = any((self.image_folder / name).is_file() for name in listing.names[:SHOWN])
        has_folders = any((self.image_folder / name).is_file() for name in in_folders[:SHOWN])
        return replace(listing, names=tuple(in_folders)) if has_folders and not is_plain else listing

    def _class_folders(self) -> Listing:
        folder = self.image_folder
        found = [one.name for one in folders_in(folder)] if folder.is_dir() else []
        if not found:
            raise UserError(
                f"data.root: there is neither a table {self.table} nor a folder for each class in {folder}; "
                "unpack the contest's archive there, or set data.root"
            )
        classes = class_order(set(found))
        entries = [
            Entry(f"{name}/{image}", (number,), None, folder / name, 0)
            for number, name in enumerate(classes)
            for image in image_names(folder / name, "data.root")
        ]
        return gather(entries, classes, multi_label=False)

    def draw(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Hold out a share of each class for the test, a part of which queries the rest of it."""
        rest, held = stratified_hold_out(labels, self.test_fraction, self.split_seed, Stream.SPLIT)
        query, database = self._queries_and_searched(labels, held)
        return {"train": rest, "query": query, "database": database}

    def _queries_and_searched(self, labels: torch.Tensor, held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Divide held-out images: of each class `query_share`, one at least, query; a single image is searched.

        Raises:
            UserError: no class has two.
        """
        ordered = order_within_classes(labels[held].numpy(), self.split_seed, Stream.SAMPLE)
        queries = [
            members[: max(round(self.query_share * len(members)), 1) if len(members) > 1 else 0]
            for members in ordered.values()
        ]
        asks = np.zeros(len(held), dtype=bool)
        asks[np.concatenate(queries)] = True
        if not asks.any():
            raise UserError(
                f"{len(held)} images of {len(ordered)} classes are held out, one of a class, and none is left to query "
                "for another; take larger shares: data.test_fraction, data.val_fraction"
            )
        return held[torch.from_numpy(asks)], held[torch.from_numpy(~asks)]

    def _make_splits(self, labels: torch.Tensor) -> Splits:
        splits = super()._make_splits(labels)
        held = splits.parts.get("validation")
        if held is None:
            return splits
        query, database = self._queries_and_searched(labels, held)
        return replace(splits, parts={**splits.parts, "validation_query": query, "validation_database": database})

    @property
    def split_parts(self) -> dict[str, str]:
        """Which part of the data each split reads."""
        validation = {"val_query": "validation_query", "val_database": "validation_database"}
        held = validation if self.has_validation else {}
        return {"train": "train", **held, "query": "query", "database": "database"}

    def prepare_archive(self, progress: Progress, class_folders: ClassFolderWay | None = None) -> Preparation:
        """Look at every file, and write what is wrong, the lists of query and gallery, and the split.

        Args:
            progress: is told how many of how many files are done.
            class_folders: also put the labelled images into a folder for each class: `link` below `prepared`,
                `move` where they lie.

        Raises:
            UserError: a folder or table is missing, or lines are faulty.
        """
        if class_folders not in (None, *get_args(ClassFolderWay)):
            choices = ", ".join(get_args(ClassFolderWay))
            raise UserError(f"class_folders is {class_folders!r}; the choices are {choices}, null")
        listing = self.complete_listing
        unlabelled = {part: self.unlabelled_images(part) for part in UNLABELLED}
        labelled = [self.image_folder / name for name in listing.names]
        parts = {part: [folder / name for name in names] for part, (folder, names) in unlabelled.items()}
        every = [*labelled, *(path for paths in parts.values() for path in paths)]
        looks = look_at_all(every, self.root, self.prepared / SCAN_FILE, progress)
        classes = [listing.class_names[number] for number in listing.labels.tolist()]
        reasons = left_out(listing.names, classes, [looks[path] for path in labelled])
        broken = {
            name_below(path, self.root): looks[path].problem
            for paths in parts.values()
            for path in paths
            if looks[path].problem
        }
        write_text_of_paths(self.prepared / LEFT_OUT_FILE, csv_text([("image", "reason"), *reasons.items()]))
        write_text_of_paths(self.prepared / BROKEN_FILE, csv_text([("image", "reason"), *broken.items()]))
        for part, (_, names) in unlabelled.items():
            write_text_of_paths(self.prepared / f"{part}.txt", "".join(f"{name}\n" for name in names))
        made = None if class_folders is None else self._make_class_folders(listing, classes, reasons, class_folders)
        digests = {
            part: {looks[path].digest for path in paths if not looks[path].problem}
            for part, paths in {"train": labelled, **parts}.items()
        }
        self.split_dir = self.prepared
        self.setup()
        return Preparation(
            counts={"labelled": len(labelled), **{part: len(paths) for part, paths in parts.items()}},
            classes=len(listing.class_names),
            left_out=reasons,
            broken=broken,
            copies=_shared(digests),
            sizes=self.sizes,
            class_folders=made,
            folder=self.prepared,
        )

    def _make_class_folders(
        self, listing: Listing, classes: list[str], reasons: dict[str, str], how: ClassFolderWay
    ) -> ClassFolders:
        there = [place for place, name in enumerate(listing.names) if (self.image_folder / name).is_file()]
        target = self.image_folder if how == "move" else self.prepared / "classes"
        names = [listing.names[place] for place in there]
        labels = [classes[place] for place in there]
        made = make_class_folders(self.image_folder, target, names, labels, how)
        if how == "move":
            # names have changed: what was listed and left out is known by the new ones from here on
            del self.complete_listing
            moved = dict(zip(listing.names, self.complete_listing.names, strict=True))
            rows = [(moved[name], reason) for name, reason in reasons.items()]
            write_text_of_paths(self.prepared / LEFT_OUT_FILE, csv_text([("image", "reason"), *rows]))
        return made


def _shared(digests: dict[str, set[str]]) -> dict[str, int]:
    """Count the images that two parts have in common by content, for each pair of parts."""
    parts = list(digests)
    pairs = [(one, other) for place, one in enumerate(parts) for other in parts[place + 1 :]]
    found = Counter({f"{one} and {other}": len(digests[one] & digests[other]) for one, other in pairs})
    return {pair: number for pair, number in found.items() if number}
