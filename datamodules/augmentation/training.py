"""What training images may go through: crop, flip, rotation, AutoAugment, Cutout; all from the draw's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from datamodules.augmentation.auto_augment import auto_augment
from datamodules.augmentation.crop_and_flip import CropAndFlip, checked_settings
from datamodules.augmentation.warping import rotations, warp
from datamodules.sampling.randomness import Stream, random_fractions, random_integers
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Policy = Literal["none", "cifar10"]


@dataclass(frozen=True)
class TrainingAugmentation:
    """Random changes of training images, in the order of the arguments.

    Args:
        crop_padding: zeros put on each side before a crop of the old size, in pixels of the image the network gets; 0
            switches the crop off.
        horizontal_flip: whether half of the images are mirrored.
        rotation: degrees up to which images are turned either way; what comes in from outside is black.
        policy: AutoAugment's `cifar10`, or none.
        cutout: side of the black square put at a random place, in pixels; 0 for none.

    Raises:
        UserError: a value is out of range.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False
    rotation: float = 0.0
    policy: Policy = "none"
    cutout: int = 0

    def __post_init__(self) -> None:
        CropAndFlip(self.crop_padding)
        if not 0 <= self.rotation <= 180:
            raise UserError(f"data.augment.rotation is {self.rotation}; it must lie in [0, 180] degrees")
        if self.policy not in get_args(Policy):
            raise UserError(f"data.augment.policy is {self.policy!r}; the choices are {', '.join(get_args(Policy))}")
        if self.cutout < 0:
            raise UserError(f"data.augment.cutout is {self.cutout}; it must be 0 or more pixels")

    @classmethod
    def from_config(cls, settings: Mapping[str, object] | None) -> TrainingAugmentation | None:
        """Read a mapping of this class's arguments; nothing set means no augmentation.

        Raises:
            UserError: a key is unknown or a value is of the wrong type.
        """
        augmentation = cls(**checked_settings(cls, settings, "data.augment"))
        return None if augmentation == cls() else augmentation

    def __call__(self, images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        """Change images uint8 (B, 3, H, W); `draw` (B,) as in `CropAndFlip.__call__`."""
        images = CropAndFlip(self.crop_padding, self.horizontal_flip)(images, draw, seed, epoch)
        if self.rotation and len(images):
            share = random_fractions(seed, epoch, Stream.ROTATION, draw)
            images = warp(images, rotations(torch.from_numpy((2 * share - 1) * self.rotation)))
        if self.policy == "cifar10":
            images = auto_augment(images, draw, seed, epoch)
        if self.cutout:
            height, width = images.shape[2:]
            rows = random_integers(height, seed, epoch, Stream.CUTOUT_ROW, draw)
            columns = random_integers(width, seed, epoch, Stream.CUTOUT_COLUMN, draw)
            images = cut_out(images, self.cutout, rows, columns)
        return images


def cut_out(images: torch.Tensor, side: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
    """Blacken a square of each image; a part of it may lie outside.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.

    Args:
        images: uint8 (B, 3, H, W).
        side: of the square, in pixels.
        rows: int64 (B,), of the centres, in 0 .. H - 1.
        columns: int64 (B,), of the centres, in 0 .. W - 1.

    Returns:
        uint8 (B, 3, H, W), new memory.
    """
    height, width = images.shape[2:]
    from_row, from_column = torch.from_numpy(rows - side // 2), torch.from_numpy(columns - side // 2)
    row, column = torch.arange(height), torch.arange(width)
    in_rows = (row >= from_row[:, None]) & (row < from_row[:, None] + side)
    in_columns = (column >= from_column[:, None]) & (column < from_column[:, None] + side)
    return images * ~(in_rows[:, None, :, None] & in_columns[:, None, None, :])
