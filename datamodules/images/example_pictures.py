"""Eight pictures that scikit-image brings along, with a caption each: an example for image-text models, no download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from records.errors import UserError

CAPTIONS: dict[str, str] = {
    "page": "a page of printed text about segmentation",
    "chelsea": "a photo of a tabby cat's face",
    "astronaut": "a portrait of an astronaut with the American flag",
    "rocket": "a rocket standing on a launch pad",
    "motorcycle": "a red motorcycle standing in a garage",
    "camera": "a man with a camera on a tripod",
    "horse": "a black silhouette of a horse",
    "coffee": "a cup of coffee on a saucer",
}
"""Name of the picture to its caption, in this project's own words."""


def example_pictures() -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Read the eight pictures, each (3, H, W) uint8 at its own size, and their captions in the same order.

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise UserError("the example pictures come with scikit-image: pip install scikit-image") from error
    readers: dict[str, Callable[[], Any]] = {name: getattr(data, name) for name in CAPTIONS if name != "motorcycle"}
    # two views for stereo vision; the right one is a picture like any other
    readers["motorcycle"] = lambda: data.stereo_motorcycle()[1]
    return [as_colours(readers[name]()) for name in CAPTIONS], list(CAPTIONS.values())


def as_colours(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn a picture, (H, W) of grey or bool or (H, W, 3), into (3, H, W) uint8."""
    pixels = image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image
    colours = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    return np.ascontiguousarray(colours.transpose(2, 0, 1))
