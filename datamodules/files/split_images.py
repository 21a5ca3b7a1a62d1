"""A split of a data set as images to encode: what they are called, and how they are read."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from datamodules.base import ImageDataModule
from datamodules.images.image_files import ImageFiles
from records.errors import UserError


class SplitImages(Dataset[dict[str, Any]]):
    """The images of a split as evaluation sees them; items are those of `images_to_encode.ImageViews`.

    Args:
        data: a data set of images, set up.
        split: one of its splits.

    Raises:
        UserError: there is no such split.
    """

    def __init__(self, data: ImageDataModule, split: str) -> None:
        self.split = split
        self.view = data.evaluation_view(split)

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return `image` uint8 (1, 3, S, S), `index`, and `reason`: the data's own word where it cannot be read."""
        try:
            return {"image": self.view[position]["image"][None], "index": position, "reason": ""}
        except UserError as error:
            # as large as any other: the batch is stacked
            other = self.view.source.read(self.view.positions[:0])
            return {"image": other.new_zeros((1, *other.shape[1:])), "index": position, "reason": str(error)}


def split_names(data: ImageDataModule, split: str) -> tuple[str, ...]:
    """Name the images of a split, each once: their paths, or `SPLIT/NUMBER` where they are no files.

    Raises:
        UserError: there is no such split.
    """
    positions, source = data.positions(split).tolist(), data.data.source
    if isinstance(source, ImageFiles):
        return tuple(str(source.path(place).absolute()) for place in positions)
    return tuple(f"{split}/{number:0{len(str(len(positions)))}d}" for number in range(len(positions)))
