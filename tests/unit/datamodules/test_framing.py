from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as published

from datamodules.augmentation.framing import (
    Box,
    FrameAndFlip,
    FramingAugmentation,
    centre_frame,
    random_frame,
    random_resized_frame,
    resized_sides,
)
from datamodules.images.source import ImageArray, ImageView
from records.errors import UserError


def picture(width: int, height: int) -> Image.Image:
    # smooth content: with noise the two ways differ by what rounding between the steps adds
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 5, height))
    pixels = np.stack([np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x)], axis=-1)
    return Image.fromarray(np.rint((pixels + 1) * 127.5).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(90, 60), (61, 97), (80, 80), (256, 300), (40, 30)])
def test_the_centre_frame_is_what_the_published_resize_and_crop_show(width: int, height: int) -> None:
    image = picture(width, height)
    expected = published.center_crop(published.resize(image, 64), [56, 56])
    box = centre_frame(0, width, height, 56, 64)
    framed = image.resize((56, 56), Image.Resampling.BILINEAR, box=box)
    assert np.abs(np.asarray(framed, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


def test_sides_after_resizing_are_the_published_ones() -> None:
    for width, height in ((500, 375), (375, 500), (333, 500), (64, 64)):
        expected = published.resize(Image.new("RGB", (width, height)), 256).size
        assert resized_sides(width, height, 256) == expected


def test_a_random_frame_is_a_crop_of_the_resized_picture_at_every_place_alike() -> None:
    size, resize = 5, 8
    boxes = [
        random_frame(80, 80, size, resize, across, down)
        for across in np.arange(0, 1, 1 / 16)
        for down in np.arange(0, 1, 1 / 16)
    ]
    assert {(box.left, box.top) for box in boxes} == {(10.0 * i, 10.0 * j) for i in range(4) for j in range(4)}
    assert all((box.right - box.left, box.bottom - box.top) == (50.0, 50.0) for box in boxes)


def test_a_frame_never_leaves_the_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height, size = (int(value) for value in rng.integers(1, 400, 3))
        resize = size + int(rng.integers(0, 40))
        fractions = rng.random((10, 4))
        fractions[0, 2:] = 1 - 2.0**-53
        boxes = [
            centre_frame(0, width, height, size, resize),
            random_frame(width, height, size, resize, *fractions[0, 2:].tolist()),
            random_resized_frame(width, height, (0.08, 1.0), (3 / 4, 4 / 3), fractions),
        ]
        for box in boxes:
            assert 0 <= box.left < box.right <= width
            assert 0 <= box.top < box.bottom <= height


def slow_random_resized(width: int, height: int, fractions: list[list[float]]) -> Box:
    """The rule as its paper words it, one attempt after the other."""
    for area_share, shape, across, down in fractions:
        area = (0.2 + 0.6 * area_share) * width * height
        ratio = (1 / 2) * 4**shape
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left = math.floor(across * (width - w + 1))
            top = math.floor(down * (height - h + 1))
            return Box(left, top, left + w, top + h)
    raise AssertionError("no attempt fits")


def test_a_random_resized_frame_takes_the_first_box_that_fits() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        fractions = rng.random((10, 4))
        expected = slow_random_resized(120, 70, fractions.tolist())
        found = random_resized_frame(120, 70, (0.2, 0.8), (0.5, 2.0), fractions)
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(300, 10, (143, 0, 156, 10)), (10, 300, (0, 143, 10, 156)), (12, 10, (0, 0, 12, 10))],
)
def test_where_no_box_fits_the_middle_is_taken(width: int, height: int, expected: tuple[int, ...]) -> None:
    never = np.full((10, 4), 1 - 2.0**-53)
    if width == 12:
        never[:, 1] = 0.99  # nearly all of the area at a ratio that the picture does not have
    assert random_resized_frame(width, height, (0.99, 1.0), (3 / 4, 4 / 3), never) == expected


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_frames_belong_to_seed_epoch_and_draw_alone(crop: str) -> None:
    augmentation = FrameAndFlip(crop=crop)
    draws = np.array([7, 3, 3 + 50])

    def boxes(draw: np.ndarray, seed: int = 0, epoch: int = 0) -> list[Box]:
        framing = augmentation.framing(draw, seed, epoch)
        return [framing(place, 640, 480, 224, 256) for place in range(len(draw))]

    assert boxes(draws) == boxes(draws)
    assert boxes(draws)[1:] == boxes(draws[1:])
    assert len({*boxes(draws), *boxes(draws, seed=1), *boxes(draws, epoch=1)}) == 9


def test_frames_are_spread_evenly() -> None:
    framing = FrameAndFlip(crop="resized", scale=(0.25, 0.75), ratio=(1.0, 1.0)).framing(np.arange(4000), 0, 0)
    boxes = np.array([framing(place, 1000, 1000, 224, 256) for place in range(4000)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e6
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.min() >= 0.249
    assert shares.max() <= 0.751
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres.mean(axis=0) == pytest.approx([500, 500], abs=10)


def test_images_in_memory_can_be_framed_too() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 20, 20), dtype=np.uint8))
    source = ImageArray(images, torch.arange(6), 12)
    view = ImageView(source, torch.arange(6), FrameAndFlip(crop="resized", horizontal_flip=True), 0, 3)
    batch = view.__getitems__([2, 2 + 6, 5])
    assert batch["image"].shape == (3, 3, 12, 12)
    assert not torch.equal(batch["image"][0], batch["image"][1])
    assert torch.equal(batch["image"][1:], view.__getitems__([2 + 6, 5])["image"])
    whole = source.read(torch.tensor([4]), lambda place, width, height, size, resize: Box(0, 0, width, height))
    assert torch.equal(whole, source.read(torch.tensor([4])))


def test_a_setting_of_nothing_is_no_augmentation() -> None:
    assert FrameAndFlip.from_config(None) is None
    assert FrameAndFlip.from_config({"crop": "centre"}) is None
    built = FrameAndFlip.from_config({"crop": "resized", "scale": [0.2, 1]})
    assert built == FrameAndFlip(crop="resized", scale=(0.2, 1.0))
    assert isinstance(built, FramingAugmentation)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"crop": "center"}, r"data\.augment\.crop is 'center'; the choices are centre, random, resized"),
        ({"flip": True}, r"data\.augment\.flip is unknown; the choices are crop, scale, ratio, horizontal_flip"),
        ({"scale": 0.5}, r"data\.augment\.scale is 0\.5; it must be a pair"),
        (
            {"scale": [0.5, 1.5]},
            r"data\.augment\.scale is \[0\.5, 1\.5\]; it must be rising, above 0 and no more than 1",
        ),
        ({"ratio": [2, 1]}, r"data\.augment\.ratio is \[2\.0, 1\.0\]; it must be rising"),
        ({"horizontal_flip": 1}, r"data\.augment\.horizontal_flip is 1; it must be of type bool"),
    ],
)
def test_settings_out_of_range_are_refused_by_key(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        FrameAndFlip.from_config(settings)
