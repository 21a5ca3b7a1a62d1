"""Retrieval data in the format that the hashing literature exchanges: three lists of paths and multi-hot labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from datamodules.base import RetrievalDataModule
from datamodules.files.image_file_data import ImageFileData
from datamodules.files.listing import Fault, Listing, gather, read_class_names, read_text_lines, refuse
from datamodules.files.retrieval_list_files import LIST_FILES, label_width, parse_list
from records.errors import UserError
from records.notices import RunWarning

LabelKind = Literal["auto", "single", "multi"]


class RetrievalLists(ImageFileData, RetrievalDataModule):
    """Images listed as `relative/path 0 0 1 0` (path, then one 0 or 1 for each class), one list for each part.

    Folder it reads, with the names that `lists` gives::

        root/train.txt       images trained on
        root/test.txt        queries
        root/database.txt    images searched, with or without the training images, as the protocol has it
        root/...             the images, where the lists say (below `image_dir`)

    Sizes are those of the lists; a protocol's YAML holds the published ones, and differences are reported.

    Source: the lists of Cao et al., "HashNet", ICCV 2017 (github.com/thuml/HashNet), and of
        github.com/swuxyj/DeepHash-pytorch.

    Args:
        protocol: name of the protocol, for records.
        lists: part (`train`, `query`, `database`) to file below `root`.
        labels: `single` for class numbers (exactly one 1 on each line), `multi`, or `auto`: single where all lines
            allow it.
        class_names: names of the classes in the order of the labels, as a list or a file with one a line; None for
            their numbers.
        settings: see `ImageFileData`.

    Raises:
        UserError: a value is not one of the choices.
    """

    def __init__(
        self,
        *,
        protocol: str = "lists",
        lists: Mapping[str, str] | None = None,
        labels: LabelKind = "auto",
        class_names: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if labels not in get_args(LabelKind):
            raise UserError(f"data.labels is {labels!r}; the choices are {', '.join(get_args(LabelKind))}")
        self.protocol = protocol
        self.lists = {**LIST_FILES, **(lists or {})}
        unknown = [part for part in self.lists if part not in LIST_FILES]
        if unknown:
            raise UserError(f"data.lists.{unknown[0]} is unknown; the choices are {', '.join(LIST_FILES)}")
        self.label_kind = labels
        self.given_class_names = class_names

    @property
    def protocol_name(self) -> str:
        """Name of the protocol."""
        return self.protocol

    def read_listing(self) -> Listing:
        """Read the three lists.

        Raises:
            UserError: with all faulty lines counted, and the first ones named.
        """
        names = read_class_names(self.given_class_names)
        width = self._width() if names is None else len(names)
        entries, faults, blank = [], [], 0
        for part, file in self.lists.items():
            found, wrong, empty = parse_list(self.root / file, part, width)
            entries += found
            faults += wrong
            blank += empty
        refuse(faults, self._mend(faults, width))
        if blank:
            warnings.warn(
                f"{blank:,} blank lines in the lists below {self.root} were left out", RunWarning, stacklevel=2
            )
        multi_label = {"auto": None, "single": False, "multi": True}[self.label_kind]
        return gather(entries, names or [str(number) for number in range(width)], multi_label)

    def _width(self) -> int:
        """Count the labels on the first line of the training list, which all lines are held against."""
        first = next(line for line in read_text_lines(self.root / self.lists["train"], "data.root") if line.strip())
        return max(label_width(first), 1)

    def _mend(self, faults: Sequence[Fault], width: int) -> str:
        mend = f"Each line is a path and {width} labels, 0 or 1, separated by blanks."
        if width == 1 and any(fault.kind == "labels not multi-hot" for fault in faults):
            mend += " Class numbers belong in a table: data=table reads a CSV with a path and a class in each row."
        return mend
