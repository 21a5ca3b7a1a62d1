"""Images read from files when they are needed: decoding, framing, and a look at every file before a run."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import Image, ImageOps

from datamodules.augmentation.framing import centre_frame
from records.errors import UserError

if TYPE_CHECKING:
    from datamodules.augmentation.framing import Framing

Scan = Literal["exists", "header", "pixels"]
SCANS = get_args(Scan)
Result = TypeVar("Result")

PICTURE_SIDE = 224
BLOCK = 256
IMAGENET_SIDES = (256, 224)  # shorter side, crop: the published evaluation at 224 pixels
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for files that are no images, or broken ones."""


def decode(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGB, upright.

    Grey, palette, CMYK and YCbCr pictures are converted, 16-bit grey is scaled to 8 bits, transparency is left out,
    and a rotation noted by the camera (EXIF) is carried out.

    Raises:
        OSError, SyntaxError, ValueError, ...: one of `DAMAGE`, where the file is missing, truncated or no image.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in SIXTEEN_BIT_MODES:
            image = _eight_bit(image)
        elif image.mode == "F":
            raise ValueError("its pixels are floating-point numbers of unknown range")
        elif "transparency" in image.info or image.mode == "PA":
            image = image.convert("RGBA")
        return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 0 .. 65535 to 0 .. 255; Pillow's own conversion would cut everything above 255.

    Raises:
        ValueError: a value lies outside.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels reach from {values.min()} to {values.max()}, beyond 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


Resampling = Literal["bilinear", "bicubic"]
RESAMPLINGS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class CentreCut:
    """How an image file is framed where it is judged: short side to `resize` pixels, then the centre is cut out."""

    resize: int
    resampling: Image.Resampling = Image.Resampling.BILINEAR

    def __str__(self) -> str:
        return f"{self.resize} {self.resampling.name.lower()}"


def default_resize(image_size: int) -> int:
    """Return the shorter side before the crop where none is set: 256 for 224 pixels, and in proportion."""
    resized, cropped = IMAGENET_SIDES
    return round(image_size * resized / cropped)


class ImageFiles:
    """An image source that decodes files when they are read.

    Evaluation sees what the ImageNet tables see: shorter side to `resize`, bilinear, then a centre crop.

    Args:
        folder: what the names are relative to; an absolute name stands for itself.
        names: paths, N of them.
        labels: int64 (N,), or float (N, C) multi-hot.
        image_size: side S of the square images the network gets.
        resize: shorter side before the crop; None takes `default_resize`.
        resampling: CLIP's transforms are bicubic.

    Raises:
        UserError: there is no image size, or `resize` is below it.
        ValueError: names and labels differ in number.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str],
        labels: torch.Tensor,
        image_size: int | None,
        resize: int | None = None,
        resampling: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        if len(names) != len(labels):
            raise ValueError(f"{len(names)} images but {len(labels)} labels")
        if image_size is None:
            raise UserError("data.image_size is null: image files have sizes of their own; give the network's")
        self._size = image_size
        self._resize = default_resize(image_size) if resize is None else resize
        if self._resize < self._size:
            raise UserError(
                f"data.resize is {resize}, less than the image size {image_size}: a crop cannot be larger than what "
                f"it is cut from; take {image_size} or more, or null for {default_resize(image_size)}"
            )
        self._resampling = resampling
        self.folder = Path(folder)
        self.names = tuple(names)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> Path:
        """Return where one image lies."""
        return self.folder / self.names[position]

    def read(self, positions: torch.Tensor, framing: Framing | None = None) -> torch.Tensor:
        """Uint8 (B, 3, S, S): the images at `positions` (B,) int64, framed, at the size the network gets.

        Raises:
            UserError: a file cannot be decoded.
        """
        return self._squares(positions, framing or centre_frame, self._size, self._resize)

    def pictures(self, positions: torch.Tensor) -> torch.Tensor:
        """Uint8 (B, 3, 224, 224): the middle of the images at `positions` (B,) int64, as large as fits."""
        return self._squares(positions, centre_frame, PICTURE_SIDE, PICTURE_SIDE)

    def _squares(self, positions: torch.Tensor, framing: Framing, size: int, resize: int) -> torch.Tensor:
        pixels = np.empty((len(positions), 3, size, size), dtype=np.uint8)
        for place, position in enumerate(positions.tolist()):
            image = self._decode(position)
            box = framing(place, *image.size, size, resize)
            square = image.resize((size, size), self._resampling, box=box)
            pixels[place] = np.asarray(square).transpose(2, 0, 1)
        return torch.from_numpy(pixels)

    def _decode(self, position: int) -> Image.Image:
        try:
            return decode(self.path(position))
        except DAMAGE as error:
            raise UserError(
                f"the image {self.path(position)} cannot be read: {_reason(error)}. Mend or remove the file, or leave "
                "such images out from the start: data.scan=pixels data.unreadable=drop"
            ) from error


def find_unreadable(paths: Iterable[Path], scan: Scan) -> dict[int, str]:
    """Look at every file.

    Args:
        paths: image files.
        scan: `exists`: is it there; `header`: does it begin as an image does; `pixels`: can all of it be decoded.

    Returns:
        place of each bad file to what is wrong with it, rising.
    """
    look: Callable[[Path], str | None] = {"exists": _missing, "header": _bad_header, "pixels": _bad_pixels}[scan]
    return {place: reason for place, reason in enumerate(_in_threads(look, paths)) if reason}


def content_digests(paths: Iterable[Path]) -> list[bytes]:
    """Hash the bytes of every file (BLAKE2b, 16 bytes).

    Raises:
        OSError: a file cannot be read.
    """
    return _in_threads(_digest, paths)


def _in_threads(look: Callable[[Path], Result], paths: Iterable[Path]) -> list[Result]:
    """Call `look` for every path on all cores, and return what it says in their order."""
    listed = list(paths)
    blocks = [listed[start : start + BLOCK] for start in range(0, len(listed), BLOCK)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [result for block in pool.map(lambda block: [look(path) for path in block], blocks) for result in block]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _missing(path: Path) -> str | None:
    return None if path.is_file() else "there is no such file"


def _bad_header(path: Path) -> str | None:
    try:
        with Image.open(path):
            return None
    except DAMAGE as error:
        return _reason(error)


def _bad_pixels(path: Path) -> str | None:
    try:
        decode(path)
    except DAMAGE as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image that Pillow knows"
    return str(error) or type(error).__name__
