"""Image files whose parts are listed under their usual names, or drawn by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from datamodules.base import RetrievalDataModule
from datamodules.files.image_file_data import ImageFileData, warn
from datamodules.files.listing import Listing
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import stratified_hold_out
from records.errors import UserError

_NOTHING = torch.empty(0, dtype=torch.int64)


class ImageFileSplit(ImageFileData):
    """Files whose parts are listed under their usual names, or drawn: a stratified share of each class for the test.

    Args:
        test_fraction: share of each class drawn for the test (or as queries) where no parts are listed.
        settings: see `ImageFileData`.

    Raises:
        UserError: the share is out of range.
    """

    def __init__(self, *, test_fraction: float = 0.2, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < test_fraction < 1:
            raise UserError(f"data.test_fraction is {test_fraction}; it must lie in (0, 1)")
        self.test_fraction = test_fraction

    def draw(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw a stratified share for the test; the rest is trained on."""
        rest, test = stratified_hold_out(labels, self.test_fraction, self.split_seed, Stream.SPLIT)
        return self.parts_from({"train": rest, "test": test})

    def with_usual_parts(self, listing: Listing) -> Listing:
        """Return a listing with this data set's own parts; unchanged where it lists none. What no part uses is said."""
        if not listing.parts:
            return listing
        parts = self.parts_from(listing.parts)
        used = torch.cat(list(parts.values()))
        for name, positions in listing.parts.items():
            idle = int((~torch.isin(positions, used)).sum())
            if idle:
                warn(
                    f"{idle:,} images listed as {name!r} are in no part that is used ({', '.join(parts)}): list them "
                    "under one of these names"
                )
        return replace(listing, parts=parts)

    def parts_from(self, listed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what is trained on, validated on and tested on; queries are a test part as well."""
        kept = {name: listed[name] for name in ("train", "validation") if name in listed}
        return {**kept, "test": listed.get("test", listed.get("query", _NOTHING))}


class RetrievalFileSplit(ImageFileSplit, RetrievalDataModule):
    """The same for retrieval: the test part queries a database.

    Where no database is listed the training part is searched.

    Args:
        train_in_database: whether a listed database is joined by the training part, as in most protocols.
        settings: see `ImageFileSplit`.
    """

    def __init__(self, *, train_in_database: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.train_in_database = train_in_database

    def parts_from(self, listed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what is trained on, validated on, asked for and searched; a test part is asked for."""
        kept = {name: listed[name] for name in ("train", "validation") if name in listed}
        database = listed.get("database", _NOTHING)
        if not len(database) or self.train_in_database:
            database = torch.cat([listed.get("train", _NOTHING), database]).unique()
        return {**kept, "query": listed.get("query", listed.get("test", _NOTHING)), "database": database}
