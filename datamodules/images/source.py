"""What images are read from, those that fit in memory, and the view a data loader reads them through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from datamodules.augmentation.framing import FramingAugmentation
from datamodules.sampling.randomness import Stream, random_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datamodules.augmentation.crop_and_flip import Augmentation
    from datamodules.augmentation.framing import Framing

Batch = dict[str, torch.Tensor]

# Digits at 32 pixels take 5 MB and CIFAR-10 at 64 pixels 0.7 GB; CIFAR-10 at 224 pixels would take 9 GB.
RESIZED_CACHE_BYTES = 2**30
_RESIZE_BLOCK = 1024


class ImageSource(Protocol):
    """Images and labels by position, whatever they are stored in."""

    @property
    def labels(self) -> torch.Tensor:
        """Int64 (N,), or float (N, C) multi-hot."""
        ...

    def __len__(self) -> int:
        """Count the images."""
        ...

    def read(self, positions: torch.Tensor, framing: Framing | None = None) -> torch.Tensor:
        """Read images at the size the network gets.

        Args:
            positions: int64 (B,).
            framing: which part of each image is read; None for what evaluation sees.

        Returns:
            uint8 (B, 3, S, S).
        """
        ...

    def pictures(self, positions: torch.Tensor) -> torch.Tensor:
        """Uint8 (B, 3, H, W): the images at `positions` (B,) int64, at their own resolution if they share one."""
        ...


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize images uint8 (B, 3, H, W) to (B, 3, size, size), bilinear with anti-aliasing."""
    if images.shape[-2:] == (size, size):
        return images
    if not len(images):
        return images.new_empty((0, images.shape[1], size, size))
    blocks = images.split(_RESIZE_BLOCK)
    return torch.cat([transforms.resize(block, [size, size], antialias=True) for block in blocks])


def take(images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Copy the images at `positions` (B,) int64 out of images uint8 (N, 3, H, W)."""
    # torch would share these few kilobytes out over threads, and wait for them where the cores are busy.
    return torch.from_numpy(images.numpy()[positions.numpy()])


class ImageArray:
    """An image source in memory.

    The images are resized once where the result fits in `cache_bytes`, and batch by batch where it does
    not; the pixels are the same either way.

    Args:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,), or float (N, C) multi-hot.
        image_size: side S of the square images the network gets; None keeps the own resolution.
        cache_bytes: upper bound of the memory for resized images.

    Raises:
        ValueError: a shape or a type is wrong.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        image_size: int | None = None,
        cache_bytes: int = RESIZED_CACHE_BYTES,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        self._images = images
        self.labels = labels
        self._size = image_size
        self._resized = self._resize_once(cache_bytes)

    def _resize_once(self, cache_bytes: int) -> torch.Tensor | None:
        if self._size is None:
            return self._images
        fits = len(self._images) * 3 * self._size**2 <= cache_bytes
        return resize(self._images, self._size) if fits else None

    def __len__(self) -> int:
        return len(self._images)

    def read(self, positions: torch.Tensor, framing: Framing | None = None) -> torch.Tensor:
        """Uint8 (B, 3, S, S): the images at `positions` (B,) int64, whole or framed, at the size the network gets."""
        if framing is not None:
            return self._read_frames(take(self._images, positions), framing)
        if self._resized is not None:
            return take(self._resized, positions)
        assert self._size is not None
        return resize(take(self._images, positions), self._size)

    def _read_frames(self, images: torch.Tensor, framing: Framing) -> torch.Tensor:
        height, width = images.shape[-2:]
        size = self._size or min(height, width)
        framed = images.new_empty((len(images), 3, size, size))
        for place, image in enumerate(images):
            left, top, right, bottom = map(round, framing(place, width, height, size, size))
            part = [top, left, bottom - top, right - left]
            framed[place] = transforms.resized_crop(image, *part, [size, size], antialias=True)
        return framed

    def pictures(self, positions: torch.Tensor) -> torch.Tensor:
        """Uint8 (B, 3, H, W): the images at `positions` (B,) int64, at their own resolution."""
        return take(self._images, positions)


@dataclass(frozen=True)
class ImageView(Dataset[Batch]):
    """One split of a source in one epoch, as a data loader reads it.

    Args:
        source: where the images lie.
        positions: int64 (N,), the place of each sample of the split in the source.
        augmentation: the random change of training images; None for evaluation.
        seed: the run's seed.
        epoch: 0-based epoch.
        further_views: the random change of each view after the first, for methods that compare several.
    """

    source: ImageSource
    positions: torch.Tensor
    augmentation: Augmentation | None = None
    seed: int = 0
    epoch: int = 0
    further_views: tuple[Augmentation, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, draw: int) -> Batch:
        """One sample: image (3, S, S) uint8, label, index, and views (V, 3, S, S); `draw` as in `__getitems__`."""
        batch = self.__getitems__([draw])
        return {key: value[:, 0] if key == "views" else value[0] for key, value in batch.items()}

    def __getitems__(self, draws: list[int]) -> Batch:
        """Read a whole batch.

        Args:
            draws: numbers of draws, B of them: position in the split plus len(self) times the number of
                earlier draws of that position in this epoch (`datamodules.sampling.order.number_repeats`).

        Returns:
            image uint8 (B, 3, S, S); label int64 (B,) or float (B, C); index int64 (B,), the position in
            the split; and, with further views, views uint8 (V, B, 3, S, S), whose first is image.
        """
        numbers = np.asarray(draws, dtype=np.int64)
        index = torch.from_numpy(numbers % max(len(self), 1))
        positions = self.positions[index]
        images = self._read(positions, numbers, self.augmentation, self.seed)
        batch = {"image": images, "label": self.source.labels[positions], "index": index}
        if self.further_views:
            batch["views"] = torch.stack([images, *self._read_further(positions, numbers)])
            batch["image"] = batch["views"][0]
        return batch

    def _read_further(self, positions: torch.Tensor, draws: NDArray[np.int64]) -> list[torch.Tensor]:
        # each view has a seed of its own: the same draw is cropped and coloured otherwise in each
        return [
            self._read(positions, draws, augmentation, random_seed(self.seed, 0, Stream.VIEW, number))
            for number, augmentation in enumerate(self.further_views, start=1)
        ]

    def _read(
        self, positions: torch.Tensor, draws: NDArray[np.int64], augmentation: Augmentation | None, seed: int
    ) -> torch.Tensor:
        framing = None
        if isinstance(augmentation, FramingAugmentation):
            framing = augmentation.framing(draws, seed, self.epoch)
        images = self.source.read(positions, framing)
        return images if augmentation is None else augmentation(images, draws, seed, self.epoch)


def whole_batch(batch: Any) -> Batch:
    """Hand a batch on as `ImageView.__getitems__` made it: the collate function of the loaders."""
    return batch
