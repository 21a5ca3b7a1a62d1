"""Which part of a picture becomes the square that the network gets: published evaluation crops and random ones.

A frame is a box in the pixels of the picture as it is stored. Reading that box at the network's size is the same as
resizing the whole picture first and cropping then, and touches fewer pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from datamodules.augmentation.crop_and_flip import CropAndFlip
from datamodules.sampling.randomness import Stream, random_fractions
from records.errors import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

CROPS = ("centre", "random", "resized")
ATTEMPTS = 10


class Box(NamedTuple):
    """A part of a picture in its own pixels; edges may lie between pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Framing(Protocol):
    """Says which box of each picture of a batch is read."""

    def __call__(self, place: int, width: int, height: int, size: int, resize: int) -> Box:
        """Frame one picture.

        Args:
            place: the picture's place in the batch.
            width: of the picture, in pixels.
            height: of the picture, in pixels.
            size: side of the square that the network gets.
            resize: length that the shorter side is brought to before a crop of `size`; `size` or more.
        """
        ...


@runtime_checkable
class FramingAugmentation(Protocol):
    """An augmentation that also says which part of each picture it is to be given."""

    def framing(self, draw: NDArray[np.int64], seed: int, epoch: int) -> Framing:
        """Make the framing of a batch; the arguments are those of `Augmentation.__call__`."""
        ...


def resized_sides(width: int, height: int, resize: int) -> tuple[int, int]:
    """Return width and height once the shorter side is `resize` pixels; the longer one is cut to whole pixels."""
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def centre_frame(place: int, width: int, height: int, size: int, resize: int) -> Box:
    """Frame the middle: shorter side to `resize`, centre crop of `size` (256 and 224 in the ImageNet tables)."""
    new_width, new_height = resized_sides(width, height, resize)
    left, top = round((new_width - size) / 2.0), round((new_height - size) / 2.0)
    return _unscaled(left, top, size, (width, height), (new_width, new_height))


def random_frame(width: int, height: int, size: int, resize: int, across: float, down: float) -> Box:
    """Frame a square anywhere: shorter side to `resize`, crop of `size` at the shares `across`, `down` in [0, 1)."""
    new_width, new_height = resized_sides(width, height, resize)
    left = int(across * (new_width - size + 1))
    top = int(down * (new_height - size + 1))
    return _unscaled(left, top, size, (width, height), (new_width, new_height))


def _unscaled(left: int, top: int, size: int, old: tuple[int, int], new: tuple[int, int]) -> Box:
    (width, height), (new_width, new_height) = old, new
    # multiplied before divided: a crop that ends at the edge must end there to the last digit
    return Box(
        left * width / new_width,
        top * height / new_height,
        (left + size) * width / new_width,
        (top + size) * height / new_height,
    )


def random_resized_frame(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    fractions: NDArray[np.float64],
) -> Box:
    """Frame a box of random area and shape.

    The first of ten boxes that fits is taken, and a centred one of an allowed shape where none does.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6; rule and fallback as in torchvision's
        RandomResizedCrop.

    Args:
        width: of the picture.
        height: of the picture.
        scale: bounds of the box's share of the area.
        ratio: bounds of width over height, drawn evenly on a logarithmic scale.
        fractions: (10, 4) in [0, 1): area, shape, place across, place down of each attempt.
    """
    for area_share, shape, across, down in fractions.tolist():
        area = width * height * (scale[0] + area_share * (scale[1] - scale[0]))
        aspect = math.exp(math.log(ratio[0]) + shape * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return Box(left, top, left + w, top + h)
    return _centred_of_allowed_shape(width, height, ratio)


def _centred_of_allowed_shape(width: int, height: int, ratio: tuple[float, float]) -> Box:
    w, h = width, height
    if width / height < ratio[0]:
        h = max(round(w / ratio[0]), 1)
    elif width / height > ratio[1]:
        w = max(round(h * ratio[1]), 1)
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


@dataclass(frozen=True)
class FrameAndFlip:
    """Random crop of a picture of any size, and random horizontal flip with probability 1/2.

    Args:
        crop: `centre` as in evaluation; `random`, a square anywhere after the shorter side was resized;
            `resized`, a box of random area and shape.
        scale: bounds of the box's share of the picture's area, for `resized`.
        ratio: bounds of its width over its height, for `resized`.
        horizontal_flip: whether half of the pictures are mirrored.

    Raises:
        UserError: a value is not among the choices or out of range.
    """

    crop: str = "centre"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"data.augment.crop is {self.crop!r}; the choices are {', '.join(CROPS)}")
        for key, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if not 0 < low <= high <= most:
                bound = f" and no more than {most:g}" if most < math.inf else ""
                raise UserError(f"data.augment.{key} is [{low}, {high}]; it must be rising, above 0{bound}")

    @classmethod
    def from_config(cls, settings: Mapping[str, object] | None) -> FrameAndFlip | None:
        """Read a mapping of this class's arguments; nothing set means no augmentation.

        Raises:
            UserError: a key is unknown or a value is of the wrong type.
        """
        given: dict[str, Any] = dict(settings or {})
        known = {field.name: field for field in fields(cls)}
        for key, value in given.items():
            if key not in known:
                raise UserError(f"data.augment.{key} is unknown; the choices are {', '.join(known)}")
            given[key] = _checked(key, value, known[key].default)
        augmentation = cls(**given)
        return None if augmentation == cls() else augmentation

    def framing(self, draw: NDArray[np.int64], seed: int, epoch: int) -> Framing:
        """Make the framing of a batch; `draw` (B,) as in `Augmentation.__call__`."""
        if self.crop == "centre":
            return centre_frame
        attempts = np.arange(ATTEMPTS)
        index = draw[:, None] * ATTEMPTS + attempts
        streams = (Stream.FRAME_AREA, Stream.FRAME_SHAPE, Stream.FRAME_COLUMN, Stream.FRAME_ROW)
        fractions = np.stack([random_fractions(seed, epoch, stream, index) for stream in streams], axis=-1)
        if self.crop == "random":
            return lambda place, width, height, size, resize: random_frame(
                width, height, size, resize, *fractions[place, 0, 2:].tolist()
            )
        return lambda place, width, height, size, resize: random_resized_frame(
            width, height, self.scale, self.ratio, fractions[place]
        )

    def __call__(self, images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
        """Flip a framed batch uint8 (B, 3, S, S); `draw` (B,) as in `Augmentation.__call__`."""
        return CropAndFlip(horizontal_flip=self.horizontal_flip)(images, draw, seed, epoch)


def _checked(key: str, value: object, default: object) -> object:
    """Return a setting as the type of its default.

    Raises:
        UserError: it is of another type.
    """
    if isinstance(default, tuple):
        numbers = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
        if not numbers or any(type(number) not in (int, float) for number in value):  # type: ignore[attr-defined]
            raise UserError(f"data.augment.{key} is {value!r}; it must be a pair of numbers [low, high]")
        return tuple(float(number) for number in value)  # type: ignore[attr-defined]
    if type(value) is not type(default):
        raise UserError(f"data.augment.{key} is {value!r}; it must be of type {type(default).__name__}")
    return value
