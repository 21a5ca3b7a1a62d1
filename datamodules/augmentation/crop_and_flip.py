"""Random crop and flip of whole batches, from random numbers that belong to the sample."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from datamodules.sampling.randomness import Stream, random_bits, random_integers
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray


class Augmentation(Protocol):
    """A random change of a batch that is a pure function of its arguments."""

    def __call__(self, images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        """Change images (B, 3, H, W) uint8; `draw` (B,) as in `CropAndFlip.__call__`."""
        ...


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop after zero padding, and random horizontal flip with probability 1/2.

    Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2 (padding 4, flip,
        on CIFAR).

    Args:
        crop_padding: zeros put on each side before a crop of the old size, in pixels of the image the
            network gets; 0 switches the crop off.
        horizontal_flip: whether half of the images are mirrored.

    Raises:
        UserError: the padding is negative.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UserError(f"data.augment.crop_padding is {self.crop_padding}; it must be 0 or more pixels")

    @classmethod
    def from_config(cls, settings: Mapping[str, object] | None) -> CropAndFlip | None:
        """Read a mapping such as {crop_padding: 4, horizontal_flip: true}; nothing set means no augmentation.

        Raises:
            UserError: a key is unknown or a value is of the wrong type.
        """
        augmentation = cls(**checked_settings(cls, settings, "data.augment"))
        return None if augmentation == cls() else augmentation

    def __call__(self, images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        """Change a batch.

        Args:
            images: uint8 (B, C, H, W) on the CPU.
            draw: int64 (B,), the number of each draw within the epoch.
            seed: the run's seed.
            epoch: 0-based epoch.

        Returns:
            uint8 (B, C, H, W), new memory unless nothing is switched on.
        """
        pixels = images.numpy()
        if self.crop_padding:
            offsets = 2 * self.crop_padding + 1
            rows = random_integers(offsets, seed, epoch, Stream.CROP_ROW, draw)
            columns = random_integers(offsets, seed, epoch, Stream.CROP_COLUMN, draw)
            pixels = crop_with_padding(pixels, self.crop_padding, rows, columns)
        if self.horizontal_flip:
            flipped = (random_bits(seed, epoch, Stream.FLIP, draw) >> np.uint64(63)).astype(bool)
            pixels = flip_horizontally(pixels, flipped)
        return torch.from_numpy(pixels)


def checked_settings(kind: type[DataclassInstance], settings: Mapping[str, object] | None, key: str) -> dict[str, Any]:
    """Hold settings against the fields of a dataclass whose defaults say their types; a float takes whole numbers too.

    Args:
        kind: the dataclass.
        settings: field to value; None is empty.
        key: where the settings stand, for messages.

    Raises:
        UserError: a key is unknown or a value is of the wrong type.
    """
    known = {field.name: field for field in fields(kind)}
    given = dict(settings or {})
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{key}.{name} is unknown; the choices are {', '.join(known)}")
        wanted = type(known[name].default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"{key}.{name} is {value!r}; it must be of type {wanted.__name__}")
    return given


def crop_with_padding(
    pixels: NDArray[np.uint8], padding: int, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Cut a window of the old size out of every zero-padded image.

    Args:
        pixels: uint8 (B, C, H, W).
        padding: zeros on each side.
        rows: int64 (B,), upper edge of the window in 0 .. 2 * padding.
        columns: int64 (B,), left edge of the window in 0 .. 2 * padding.

    Returns:
        uint8 (B, C, H, W), contiguous.
    """
    height, width = pixels.shape[2:]
    edge = (padding, padding)
    padded = np.pad(pixels, ((0, 0), (0, 0), edge, edge))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(len(pixels)), :, rows, columns])


def flip_horizontally(pixels: NDArray[np.uint8], flipped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mirror the images (B, C, H, W) that `flipped` (B,) marks, left to right."""
    result = pixels.copy()
    result[flipped] = pixels[flipped][..., ::-1]
    return result
