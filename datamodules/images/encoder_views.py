"""Image files as encoders see them: the centre of the image, or random crops that belong to (seed, view, image)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.augmentation.framing import resized_sides
from datamodules.images.image_files import DAMAGE, decode
from datamodules.sampling.randomness import Stream, random_seed
from records.errors import UserError

SCALE = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class ViewSettings:
    """How an image is cut and scaled before it is encoded.

    Without views: the short side is scaled to `resize`, bicubic, and the centre is cut out (OpenAI's transform). With
    views: that many random crops of 0.5 to 1 of the area, scaled to `size`, bicubic, half of them mirrored
    (Tip-Adapter's training transform; CoOp's crops go down to 0.08).

    Args:
        size: side of the result, in pixels.
        views: random crops of each image; 0 for the centre alone.
        seed: of the crops.
        resize: length of the short side before the centre is cut out, `size` or more; None takes `size`, OpenAI's.
    """

    size: int
    views: int = 0
    seed: int = 0
    resize: int | None = None

    @property
    def short_side(self) -> int:
        """Length of the short side before the centre is cut out."""
        return self.size if self.resize is None else self.resize

    @property
    def count(self) -> int:
        """Views of each image, the centre counted."""
        return max(self.views, 1)

    @property
    def text(self) -> str:
        """The settings in words that change when the result does."""
        if not self.views:
            crop = "" if self.short_side == self.size else f" of {self.size}"
            return f"short side {self.short_side} bicubic, centre crop{crop}"
        return f"random crop {SCALE} ratio (3/4, 4/3) to {self.size} bicubic, flip 1/2, seed {self.seed}"


@dataclass(frozen=True)
class ImageFileViews(Dataset[Tensor]):
    """The views of image files: item i is uint8 (V, 3, S, S), a pure function of the file, the settings and i."""

    files: Sequence[Path]
    settings: ViewSettings

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Tensor:
        """Read one image and cut its views.

        Raises:
            UserError: the file is missing or no image; names it.
        """
        image = read_image(self.files[position])
        if not self.settings.views:
            return _pixels([centre_view(image, self.settings.size, self.settings.short_side)])
        return _pixels([self._random_view(image, position, view) for view in range(self.settings.views)])

    def _random_view(self, image: Image.Image, position: int, view: int) -> Image.Image:
        rng = np.random.default_rng(random_seed(self.settings.seed, view, Stream.FEATURE_VIEW, position))
        return random_view(image, self.settings.size, rng)


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Raises:
        UserError: it is missing, damaged or no image.
    """
    try:
        return decode(path)
    except DAMAGE as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error


def centre_view(image: Image.Image, size: int, resize: int | None = None) -> Image.Image:
    """Scale the short side to `resize`, bicubic, and cut out the centre (openai/CLIP, clip.py, _transform).

    Args:
        image: of any size.
        size: side of the result.
        resize: length of the short side, `size` or more; None takes `size`.
    """
    scaled = resized_sides(*image.size, resize or size)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def random_view(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Cut out 0.5 to 1 of the area at a ratio of 3/4 to 4/3, scale it to `size`, bicubic, and mirror half of them."""
    left, top, width, height = _random_box(image.size, rng)
    box = (left, top, left + width, top + height)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = size
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    # a long and narrow image: its centre, at the nearest ratio
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _pixels(views: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2).contiguous()
