"""The views of contrastive learning: random resized crop, flip, colour jitter, grey, blur; batches of uint8 in and out.

Chen et al., "A simple framework for contrastive learning of visual representations" (SimCLR), ICML 2020, appendix A,
by default without blur, as it does on CIFAR; strengths, order and blur as in Cui et al., "Parametric contrastive
learning" (PaCo), ICCV 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.augmentation.crop_and_flip import CropAndFlip, checked_settings
from datamodules.sampling.randomness import Stream, random_bits, random_fractions
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

ATTEMPTS = 10
SIGMAS = (0.1, 2.0)
REACH = 6
"""How far from a pixel others count when it is blurred: three times the largest sigma."""
RATIOS = (3 / 4, 4 / 3)
_LUMA = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]


@dataclass(frozen=True)
class ContrastiveAugmentation:
    """Padded crop, flip, random resized crop, colour jitter in random order, grey, and blur.

    Args:
        smallest_crop: lower bound of a crop's share of the area, in (0, 1]; 1 switches the crop off.
        horizontal_flip: whether half of the images are mirrored.
        jitter: brightness, contrast and saturation are scaled by 1 - jitter .. 1 + jitter.
        hue: hues are shifted by up to this share of the circle either way, in [0, 0.5].
        jitter_probability: share of the images whose colours are changed.
        grey_probability: share of the images that lose their colours.
        blur_probability: share of the images that are blurred, by a Gaussian with a sigma of 0.1 to 2 pixels.
        crop_padding: zeros put on each side before a crop of the old size, in pixels; 0 switches that crop off.

    Raises:
        UserError: a value is out of range.
    """

    smallest_crop: float = 0.2
    horizontal_flip: bool = True
    jitter: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.0
    crop_padding: int = 0

    def __post_init__(self) -> None:
        shares = ("jitter", "jitter_probability", "grey_probability", "blur_probability")
        bounds = {"hue": 0.5, **dict.fromkeys(shares, 1.0)}
        for key, high in bounds.items():
            if not 0 <= getattr(self, key) <= high:
                raise UserError(f"data.view_augment.{key} is {getattr(self, key)}; it must lie in [0, {high:g}]")
        if not 0 < self.smallest_crop <= 1:
            raise UserError(f"data.view_augment.smallest_crop is {self.smallest_crop}; it must lie in (0, 1]")
        if self.crop_padding < 0:
            raise UserError(f"data.view_augment.crop_padding is {self.crop_padding}; it must be 0 or more pixels")

    @classmethod
    def from_config(cls, settings: Mapping[str, object] | None) -> ContrastiveAugmentation:
        """Read a mapping of this class's arguments.

        Raises:
            UserError: a key is unknown or a value is of the wrong type.
        """
        return cls(**checked_settings(cls, settings, "data.view_augment"))

    def __call__(self, images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        """Change images uint8 (B, 3, H, W); `draw` (B,) as in `CropAndFlip.__call__`."""
        if not len(images):
            return images
        images = CropAndFlip(self.crop_padding, self.horizontal_flip)(images, draw, seed, epoch)
        pixels = images.float() / 255
        if self.smallest_crop < 1:
            pixels = resized_crops(pixels, random_boxes(images.shape, self.smallest_crop, draw, seed, epoch))
        pixels = self._jittered(pixels, draw, seed, epoch)
        turns_grey = random_fractions(seed, epoch, Stream.GREY, draw) < self.grey_probability
        pixels = torch.where(_per_image(turns_grey), luma(pixels), pixels)
        pixels = self._blurred(pixels, draw, seed, epoch)
        return (pixels * 255).round().to(torch.uint8)

    def _jittered(self, pixels: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        shares = 2 * random_fractions(seed, epoch, Stream.JITTER, 4 * draw[:, None] + np.arange(4)) - 1
        strengths = torch.from_numpy(shares * [self.jitter, self.jitter, self.jitter, self.hue]).float()
        order = np.argsort(random_bits(seed, epoch, Stream.JITTER_ORDER, 4 * draw[:, None] + np.arange(4)), axis=1)
        happens = random_fractions(seed, epoch, Stream.JITTER_CHANCE, draw) < self.jitter_probability
        for place in range(4):
            for number, change in enumerate(CHANGES):
                mine = np.flatnonzero(happens & (order[:, place] == number))
                if len(mine):
                    pixels[mine] = change(pixels[mine], strengths[mine, number, None, None, None])
        return pixels

    def _blurred(self, pixels: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        mine = np.flatnonzero(random_fractions(seed, epoch, Stream.BLUR_CHANCE, draw) < self.blur_probability)
        if len(mine):
            low, high = SIGMAS
            sigmas = low + (high - low) * random_fractions(seed, epoch, Stream.BLUR, draw[mine])
            pixels[mine] = blurred(pixels[mine], torch.from_numpy(sigmas).float())
        return pixels


def random_boxes(
    shape: torch.Size, smallest: float, draw: NDArray[np.int64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw a box for each image: the first of ten that fits, or the whole image.

    Areas are even between `smallest` and 1 of the image's, ratios of width to height even on a logarithmic scale
    between 3/4 and 4/3, as torchvision's RandomResizedCrop draws them.

    Args:
        shape: (B, 3, H, W) of the images.
        smallest: lower bound of the share of the area.
        draw: int64 (B,).
        seed: the run's seed.
        epoch: 0-based epoch.

    Returns:
        int64 (B, 4): top, left, height, width.
    """
    height, width = shape[2:]
    number = ATTEMPTS * draw[:, None] + np.arange(ATTEMPTS)
    streams = (Stream.CROP_AREA, Stream.CROP_RATIO, Stream.CROP_ROW, Stream.CROP_COLUMN)
    area, shares, down, across = (random_fractions(seed, epoch, stream, number) for stream in streams)
    pixels = height * width * (smallest + (1 - smallest) * area)
    ratio = np.exp(math.log(RATIOS[0]) + shares * (math.log(RATIOS[1]) - math.log(RATIOS[0])))
    heights, widths = np.rint(np.sqrt(pixels / ratio)), np.rint(np.sqrt(pixels * ratio))
    fits = (heights >= 1) & (widths >= 1) & (heights <= height) & (widths <= width)
    boxes = np.stack(
        [
            np.floor(down * (height - heights + 1)),
            np.floor(across * (width - widths + 1)),
            heights,
            widths,
        ],
        axis=-1,
    )
    first = boxes[np.arange(len(draw)), fits.argmax(axis=1)]
    return np.where(np.any(fits, axis=1, keepdims=True), first, [0, 0, height, width]).astype(np.int64)


def resized_crops(pixels: torch.Tensor, boxes: NDArray[np.int64]) -> torch.Tensor:
    """Enlarge a box of each image to the size of the whole, bilinear.

    Args:
        pixels: float (B, 3, H, W).
        boxes: int64 (B, 4): top, left, height, width, inside the image.

    Returns:
        float (B, 3, H, W).
    """
    height, width = pixels.shape[2:]
    top, left, box_height, box_width = torch.from_numpy(boxes).float().T[..., None]
    down = _places(top, box_height, height)
    across = _places(left, box_width, width)
    grid = torch.stack(
        [
            (across * 2 / width - 1)[:, None, :].expand(-1, height, -1),
            (down * 2 / height - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _places(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Return where the `size` pixels of the result lie, (B, size): between the centres of the box's outer pixels."""
    places = start + (torch.arange(size) + 0.5) * length / size
    return torch.minimum(torch.maximum(places, start + 0.5), start + length - 0.5)


def blurred(pixels: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Blur each image by a Gaussian of its own, cut off at `REACH` pixels; the outermost pixels go on beyond the edges.

    Args:
        pixels: float (B, 3, H, W).
        sigmas: float (B,), above 0.

    Returns:
        float (B, 3, H, W).
    """
    weights = torch.exp(-(torch.arange(-REACH, REACH + 1) ** 2) / (2 * sigmas[:, None] ** 2))
    shares = (weights / weights.sum(dim=1, keepdim=True)).T[..., None, None, None]
    for axis, edges in ((3, (REACH, REACH, 0, 0)), (2, (0, 0, REACH, REACH))):
        padded = F.pad(pixels, edges, mode="replicate")
        pixels = torch.zeros_like(pixels)
        # one summand after the other, so that no image depends on those blurred with it
        for place, share in enumerate(shares):
            pixels.addcmul_(share, padded.narrow(axis, place, pixels.shape[axis]))
    return pixels


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Return the brightness of pixels (B, 3, H, W) in [0, 1], (B, 1, H, W); weights of ITU-R BT.601."""
    return (pixels * _LUMA).sum(dim=1, keepdim=True)


def change_brightness(pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Scale pixels (B, 3, H, W) in [0, 1] by 1 + strength (B, 1, 1, 1)."""
    return (pixels * (1 + strength)).clamp(0, 1)


def change_contrast(pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Scale the distance of pixels (B, 3, H, W) from their image's mean brightness by 1 + strength (B, 1, 1, 1)."""
    mean = luma(pixels).mean(dim=(2, 3), keepdim=True)
    return (mean + (pixels - mean) * (1 + strength)).clamp(0, 1)


def change_saturation(pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Scale the distance of pixels (B, 3, H, W) from grey by 1 + strength (B, 1, 1, 1)."""
    grey = luma(pixels)
    return (grey + (pixels - grey) * (1 + strength)).clamp(0, 1)


def change_hue(pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Turn the hues of pixels (B, 3, H, W) in [0, 1] by a share `strength` (B, 1, 1, 1) of the circle."""
    value, spread = (
        pixels.amax(dim=1, keepdim=True),
        pixels.amax(dim=1, keepdim=True) - pixels.amin(dim=1, keepdim=True),
    )
    red, green, blue = pixels.split(1, dim=1)
    safe = spread.clamp(min=1e-12)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    corner = torch.tensor([5.0, 3.0, 1.0])[:, None, None]
    k = torch.remainder(corner + sixths + 6 * strength, 6)
    return value - spread * torch.minimum(k, 4 - k).clamp(0, 1)


CHANGES: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    change_brightness,
    change_contrast,
    change_saturation,
    change_hue,
)


def _per_image(flags: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(flags)[:, None, None, None]
