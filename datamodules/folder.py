"""Images in one folder for each class, for retrieval and for classification."""

from __future__ import annotations

import warnings
from collections import Counter

from datamodules.files.class_folders import folders_in, images_below, part_folders
from datamodules.files.image_file_split import ImageFileSplit, RetrievalFileSplit
from datamodules.files.listing import Entry, Listing, gather
from datamodules.foreground import ForegroundDraws
from records.errors import UserError
from records.notices import RunWarning


class Folder(ImageFileSplit):
    """Images in folders named after their classes, below folders named after the parts, or without such.

    Folder it reads, either of::

        root/train/CLASS/...jpg      and test, val, query, database (gallery) beside train
        root/CLASS/...jpg            a stratified share of each class is drawn for the test

    A class folder may hold folders. Hidden files are passed over; files that are no images by their name are counted
    in a warning.

    The arguments are those of `ImageFileSplit`.

    Raises:
        UserError: there is no image.
    """

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return "folder" if self.listing.parts else f"folder-stratified-{self.test_fraction:g}"

    def read_listing(self) -> Listing:
        """List the images of all class folders."""
        folders = part_folders(self.image_folder)
        classes = sorted({folder.name for top in folders for folder in folders_in(top)})
        number = {name: place for place, name in enumerate(classes)}
        entries, strangers = [], Counter[str]()
        for top, part in folders.items():
            for folder in folders_in(top):
                found, others = images_below(folder)
                strangers.update(others)
                names = [str(path.relative_to(self.image_folder)) for path in found]
                entries += [Entry(name, (number[folder.name],), part, folder, 0) for name in names]
        if not entries:
            raise UserError(
                f"data.root: there is no image in {self.image_folder}; it takes root/CLASS/IMAGE or "
                "root/train/CLASS/IMAGE and root/test/CLASS/IMAGE"
            )
        if strangers:
            kinds = ", ".join(f"{count:,} x {suffix or 'no suffix'}" for suffix, count in strangers.most_common())
            warnings.warn(
                f"files below {self.image_folder} that are no images by their name were left out: {kinds}",
                RunWarning,
                stacklevel=2,
            )
        return self.with_usual_parts(gather(entries, classes, multi_label=False))


class FolderClassification(ForegroundDraws, Folder):
    """Class folders, recognised: parts train, test and, if there is one, val."""


class FolderRetrieval(Folder, RetrievalFileSplit):
    """Class folders, searched: queries (or the test part) in a database, or in the training part without one."""
