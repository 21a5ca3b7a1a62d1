"""Random numbers by counting: every number is a pure function of (seed, epoch, stream, index).

No generator has a state here, so a number does not depend on how many were drawn before it, on the batch a
sample falls into, on the worker that loads it or on the rank that trains on it.

Source: the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied to a key and a counter.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


class Stream(IntEnum):
    """What a random number is drawn for; two streams of the same (seed, epoch, index) are independent."""

    ORDER = 1
    SPLIT = 2
    HOLD_OUT = 3
    WORKER = 4
    CROP_ROW = 5
    CROP_COLUMN = 6
    FLIP = 7
    SAMPLE = 8
    SAMPLED_CLASS = 9
    SAMPLED_MEMBER = 10
    VIEW = 11
    ROTATION = 12
    POLICY = 13
    CUTOUT_ROW = 14
    CUTOUT_COLUMN = 15
    CROP_AREA = 16
    CROP_RATIO = 17
    JITTER = 18
    GREY = 19
    FEATURE_VIEW = 20
    POLICY_CHANCE = 21
    POLICY_SIGN = 22
    JITTER_ORDER = 23
    JITTER_CHANCE = 24
    FOREGROUND = 25
    BLUR = 26
    BLUR_CHANCE = 27
    FRAME_AREA = 30
    FRAME_SHAPE = 31
    FRAME_COLUMN = 32
    FRAME_ROW = 33


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    return value ^ (value >> np.uint64(31))


def _key(seed: int, epoch: int, stream: int) -> NDArray[np.uint64]:
    key = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, stream):
        key = _mix((key ^ np.uint64(part & _MASK)) + np.uint64(_GOLDEN))
    return key


def random_bits(seed: int, epoch: int, stream: Stream, index: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for every index.

    Args:
        seed: any integer; its lowest 64 bits count.
        epoch: 0-based epoch; 0 for what does not change from epoch to epoch.
        stream: what the number is for.
        index: integers of any shape.

    Returns:
        uint64 of the shape of `index`.
    """
    counter = np.asarray(index, dtype=np.int64).astype(np.uint64)
    key = _key(seed, epoch, stream)[0]
    return _mix(_mix(counter * np.uint64(_GOLDEN) + key) ^ key)


def random_integers(high: int, seed: int, epoch: int, stream: Stream, index: ArrayLike) -> NDArray[np.int64]:
    """Integers in [0, high) for every index, uniform up to a bias below high / 2**32.

    Raises:
        ValueError: high is outside 1 .. 2**31.
    """
    if not 1 <= high <= 2**31:
        raise ValueError(f"high is {high}; it must lie in 1 .. 2**31")
    upper = random_bits(seed, epoch, stream, index) >> np.uint64(32)
    return ((upper * np.uint64(high)) >> np.uint64(32)).astype(np.int64)


def random_fractions(seed: int, epoch: int, stream: Stream, index: ArrayLike) -> NDArray[np.float64]:
    """Numbers in [0, 1) for every index, float64 of the shape of `index`: multiples of 2**-53."""
    return (random_bits(seed, epoch, stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_seed(seed: int, epoch: int, stream: Stream, index: int) -> int:
    """Draw a seed in 0 .. 2**63 - 1 for what has a state (a worker, another library's transform)."""
    return int(random_bits(seed, epoch, stream, [index])[0]) >> 1


def random_generator(seed: int, epoch: int, stream: Stream, index: int = 0) -> torch.Generator:
    """Make a CPU generator seeded by `random_seed`."""
    generator = torch.Generator()
    generator.manual_seed(random_seed(seed, epoch, stream, index))
    return generator


def random_order(size: int, seed: int, epoch: int, stream: Stream) -> NDArray[np.int64]:
    """Draw a permutation of 0 .. size - 1, the same on every machine and with every release."""
    return np.argsort(random_bits(seed, epoch, stream, np.arange(size)), kind="stable").astype(np.int64)
