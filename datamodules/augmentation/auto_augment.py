"""AutoAugment's policy for CIFAR-10, on whole batches, from random numbers that belong to the draw.

Cubuk et al., "AutoAugment: learning augmentation strategies from data", CVPR 2019: 25 pairs of operations (table 7),
each operation with a probability and a magnitude of 0 .. 9; the ranges of the magnitudes are those of its table 6.
Pixels from outside are grey (128), as in the implementation that codes on long tails share
(github.com/DeepVoltaire/AutoAugment).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from datamodules.augmentation.warping import identity_maps, rotations, warp
from datamodules.sampling.randomness import Stream, random_bits, random_fractions, random_integers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FILL = 128


class Step(NamedTuple):
    """One operation of a pair: its name, its probability, its magnitude (0 .. 9)."""

    operation: str
    probability: float
    magnitude: int


def _pair(first: tuple[str, float, int], second: tuple[str, float, int]) -> tuple[Step, Step]:
    return Step(*first), Step(*second)


CIFAR10_POLICY = (
    _pair(("invert", 0.1, 7), ("contrast", 0.2, 6)),
    _pair(("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    _pair(("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    _pair(("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    _pair(("auto_contrast", 0.5, 8), ("equalize", 0.9, 2)),
    _pair(("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    _pair(("colour", 0.4, 3), ("brightness", 0.6, 7)),
    _pair(("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    _pair(("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    _pair(("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    _pair(("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    _pair(("equalize", 0.3, 7), ("auto_contrast", 0.4, 8)),
    _pair(("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    _pair(("brightness", 0.9, 6), ("colour", 0.2, 8)),
    _pair(("solarize", 0.5, 2), ("invert", 0.0, 3)),
    _pair(("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    _pair(("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    _pair(("colour", 0.9, 9), ("equalize", 0.6, 6)),
    _pair(("auto_contrast", 0.8, 4), ("solarize", 0.2, 8)),
    _pair(("brightness", 0.1, 3), ("colour", 0.7, 0)),
    _pair(("solarize", 0.4, 5), ("auto_contrast", 0.9, 3)),
    _pair(("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    _pair(("auto_contrast", 0.9, 2), ("solarize", 0.8, 3)),
    _pair(("equalize", 0.8, 8), ("invert", 0.1, 3)),
    _pair(("translate_y", 0.7, 9), ("auto_contrast", 0.9, 1)),
)

# largest value of a magnitude; shears are slopes, translations shares of the side, rotations degrees
_SIGNED_RANGES = {
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "rotate": 30.0,
    "brightness": 0.9,
    "colour": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
}
_GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_COLOURS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "brightness": lambda images, value: transforms.adjust_brightness(images, 1 + value),
    "colour": lambda images, value: transforms.adjust_saturation(images, 1 + value),
    "contrast": lambda images, value: transforms.adjust_contrast(images, 1 + value),
    "sharpness": lambda images, value: transforms.adjust_sharpness(images, 1 + value),
    "posterize": lambda images, value: transforms.posterize(images, int(value)),
    "solarize": lambda images, value: transforms.solarize(images, value),
    "auto_contrast": lambda images, value: transforms.autocontrast(images),
    "equalize": lambda images, value: transforms.equalize(images),
    "invert": lambda images, value: transforms.invert(images),
}


def strength(operation: str, magnitude: int) -> float:
    """Return the value of a magnitude 0 .. 9, without sign: 0 where an operation has none.

    A share, a slope, degrees, a change of a factor 1, bits that are kept, or a threshold of pixel values.
    """
    if operation in _SIGNED_RANGES:
        return _SIGNED_RANGES[operation] * magnitude / 9
    if operation == "posterize":
        return float(8 - round(magnitude * 4 / 9))
    return 255 * (1 - magnitude / 9) if operation == "solarize" else 0.0


def auto_augment(images: torch.Tensor, draw: NDArray[np.int64], seed: int, epoch: int) -> torch.Tensor:
    """Change each image by one of the 25 pairs, chosen evenly; signs are chosen evenly too.

    Args:
        images: uint8 (B, 3, H, W).
        draw: int64 (B,), the number of each draw within the epoch.
        seed: the run's seed.
        epoch: 0-based epoch.

    Returns:
        uint8 (B, 3, H, W).
    """
    chosen = random_integers(len(CIFAR10_POLICY), seed, epoch, Stream.POLICY, draw)
    for place in (0, 1):
        steps = [CIFAR10_POLICY[pair][place] for pair in chosen]
        number = 2 * draw + place
        happens = random_fractions(seed, epoch, Stream.POLICY_CHANCE, number) < [step.probability for step in steps]
        signs = np.where(random_bits(seed, epoch, Stream.POLICY_SIGN, number) >> np.uint64(63), -1.0, 1.0)
        images = _apply(images, steps, happens, signs)
    return images


def _apply(
    images: torch.Tensor, steps: list[Step], happens: NDArray[np.bool_], signs: NDArray[np.float64]
) -> torch.Tensor:
    values = [
        strength(step.operation, step.magnitude) * (sign if step.operation in _SIGNED_RANGES else 1.0)
        for step, sign in zip(steps, signs, strict=True)
    ]
    groups: dict[tuple[str, float], list[int]] = {}
    for place in np.flatnonzero(happens).tolist():
        groups.setdefault((steps[place].operation, values[place]), []).append(place)
    result = images.clone()
    moved = [place for (operation, _), places in groups.items() if operation in _GEOMETRY for place in places]
    if moved:
        maps = torch.cat([geometry_map(steps[place].operation, values[place], images.shape) for place in moved])
        result[moved] = warp(images[moved], maps, FILL)
    for (operation, value), places in groups.items():
        if operation in _COLOURS:
            result[places] = _COLOURS[operation](images[places], value)
    return result


def geometry_map(operation: str, value: float, shape: torch.Size) -> torch.Tensor:
    """Return the map of an operation for `datamodules.augmentation.warping.warp`, float32 (1, 2, 3).

    Shears keep the first row or column where it is; translations are cut to whole pixels.

    Args:
        operation: shear_x, shear_y, translate_x, translate_y or rotate.
        value: slope, share of the side, or degrees.
        shape: (B, 3, H, W) of the images.
    """
    height, width = shape[2:]
    if operation == "rotate":
        return rotations(torch.tensor([value]))
    change = identity_maps(1)
    if operation == "translate_x":
        change[0, 0, 2] = -int(value * width)
    elif operation == "translate_y":
        change[0, 1, 2] = -int(value * height)
    elif operation == "shear_x":
        change[0, 0, 1], change[0, 0, 2] = value, value * height / 2
    else:
        change[0, 1, 0], change[0, 1, 2] = value, value * width / 2
    return change
