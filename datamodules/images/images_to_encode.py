"""Images without labels, streamed to a network that encodes them: each once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.augmentation.framing import centre_frame
from datamodules.images.image_files import DAMAGE, CentreCut, decode
from records.errors import UserError


@dataclass(frozen=True)
class Views:
    """Which views of an image are encoded, and averaged.

    Args:
        flip: the mirrored image as well.
        zooms: how large the image is before the centre crop, as multiples of the evaluation's own size, at least 1
            wherever the crop would not fit otherwise.

    Raises:
        UserError: there is no zoom, or one is not above 0.
    """

    flip: bool = False
    zooms: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.zooms or min(self.zooms) <= 0:
            raise UserError(f"zooms is {list(self.zooms)}; it takes one number above 0, or several")

    @property
    def number(self) -> int:
        """Views of each image."""
        return len(self.zooms) * (1 + self.flip)

    def __str__(self) -> str:
        return f"zooms {', '.join(f'{zoom:g}' for zoom in self.zooms)}{', flipped too' if self.flip else ''}"


class ImageViews(Dataset[dict[str, Any]]):
    """Views of image files; an image that cannot be read is a black one with a reason.

    Args:
        folder: what the names are relative to.
        names: paths, N of them.
        image_size: side S of the square images the network gets.
        cut: shorter side before the crop, and how it is scaled.
        views: of each image, V of them.

    Raises:
        UserError: a zoom leaves less than the crop.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], image_size: int, cut: CentreCut, views: Views | None = None
    ) -> None:
        self.folder = folder
        self.names = names
        self.views = views or Views()
        self.image_size = image_size
        self.resampling = cut.resampling
        self.resizes = [round(cut.resize * zoom) for zoom in self.views.zooms]
        if min(self.resizes) < image_size:
            raise UserError(
                f"zooms: {min(self.views.zooms):g} brings the shorter side to {min(self.resizes)} pixels, less "
                f"than the crop of {image_size}; the least zoom is {image_size / cut.resize:.3f}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return `image` uint8 (V, 3, S, S), `index`, and `reason`, empty where the image could be read."""
        try:
            pixels, reason = self._squares(decode(self.folder / self.names[position])), ""
        except DAMAGE as error:
            pixels = np.zeros((self.views.number, 3, self.image_size, self.image_size), dtype=np.uint8)
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else _one_line(error)
        return {"image": torch.from_numpy(pixels), "index": position, "reason": reason}

    def _squares(self, image: Image.Image) -> np.ndarray:
        size = (self.image_size, self.image_size)
        squares = []
        for resize in self.resizes:
            box = centre_frame(0, *image.size, self.image_size, resize)
            square = np.asarray(image.resize(size, self.resampling, box=box)).transpose(2, 0, 1)
            squares += [square, square[:, :, ::-1]] if self.views.flip else [square]
        return np.stack(squares)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Batches(Sampler[list[int]]):
    """Batches that never reach over the end of a block, in the order of the blocks."""

    def __init__(self, blocks: Sequence[range], batch_size: int) -> None:
        self.blocks = blocks
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for block in self.blocks:
            for start in range(0, len(block), self.batch_size):
                yield list(block[start : start + self.batch_size])

    def __len__(self) -> int:
        return sum(-(-len(block) // self.batch_size) for block in self.blocks)


def _collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "image": torch.stack([sample["image"] for sample in samples], dim=1),
        "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        "reason": [sample["reason"] for sample in samples],
    }


class ImagesToEncode(LightningDataModule):
    """A loader of the blocks that are still to be encoded, shared out among the ranks.

    Batches hold `image` uint8 (V, B, 3, S, S), `index` (B,) and `reason`, a list of B texts.

    Args:
        images: all images; an item holds `image` (V, 3, S, S), `index` and `reason`.
        blocks: number of each block that is missing to its positions.
        batch_size: images per batch and rank.
        num_workers: loading processes.
    """

    def __init__(
        self, images: Dataset[dict[str, Any]], blocks: Mapping[int, range], batch_size: int, num_workers: int
    ) -> None:
        super().__init__()
        # a rank may be left without a block
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.images = images
        self.blocks = blocks
        self.batch_size = batch_size
        self.num_workers = num_workers

    def own_blocks(self) -> list[range]:
        """Return this rank's blocks: by number, for ranks may differ in what they found missing."""
        trainer: Any = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        return [block for number, block in self.blocks.items() if number % world_size == rank]

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Make the loader of this rank's blocks."""
        return DataLoader(
            self.images,
            batch_sampler=_Batches(self.own_blocks(), self.batch_size),
            collate_fn=_collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
