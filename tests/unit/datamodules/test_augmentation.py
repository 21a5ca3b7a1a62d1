from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.augmentation.crop_and_flip import CropAndFlip
from datamodules.sampling.randomness import Stream, random_bits, random_integers
from records.errors import UserError


def slow_crop_and_flip(image: np.ndarray, row: int, column: int, padding: int, flip: bool) -> np.ndarray:
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + row - padding, x + column - padding
                if 0 <= source_y < height and 0 <= source_x < width:
                    result[channel, y, width - 1 - x if flip else x] = image[channel, source_y, source_x]
    return result


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (40, 3, 7, 9), dtype=np.uint8))


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (3, False), (0, True)])
def test_a_batch_equals_a_loop_over_pixels(images: torch.Tensor, padding: int, flip: bool) -> None:
    draw = np.arange(100, 140)
    result = CropAndFlip(padding, flip)(images, draw, 5, 3)
    for place, number in enumerate(draw):
        row = random_integers(2 * padding + 1, 5, 3, Stream.CROP_ROW, [number])[0]
        column = random_integers(2 * padding + 1, 5, 3, Stream.CROP_COLUMN, [number])[0]
        mirrored = flip and random_bits(5, 3, Stream.FLIP, [number])[0] >= 2**63
        expected = slow_crop_and_flip(images[place].numpy(), int(row), int(column), padding, bool(mirrored))
        assert np.array_equal(result[place].numpy(), expected)


def test_it_is_a_pure_function_of_seed_epoch_and_draw(images: torch.Tensor) -> None:
    augment = CropAndFlip(2, True)
    whole = augment(images, np.arange(40), 0, 0)
    piecewise = torch.cat([augment(images[i : i + 7], np.arange(i, min(i + 7, 40)), 0, 0) for i in range(0, 40, 7)])
    assert torch.equal(whole, piecewise)
    assert not torch.equal(whole, augment(images, np.arange(40), 1, 0))
    assert not torch.equal(whole, augment(images, np.arange(40), 0, 1))
    assert not torch.equal(whole, augment(images, np.arange(40, 80), 0, 0))


def test_the_input_stays_as_it_is(images: torch.Tensor) -> None:
    before = images.clone()
    CropAndFlip(0, True)(images, np.arange(40), 0, 0)
    CropAndFlip(2, True)(images, np.arange(40), 0, 0)
    assert torch.equal(images, before)


def test_half_are_mirrored_and_all_offsets_occur() -> None:
    image = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    image[0, :, 2, 2] = 255
    many = image.expand(4000, 3, 5, 5)
    cropped = CropAndFlip(2, False)(many, np.arange(4000), 0, 0)
    hits = (cropped[:, 0] == 255).sum(dim=0)
    assert hits.min() > 100  # 4000 / 25 = 160 expected at each of the 25 places
    ramp = torch.arange(5, dtype=torch.uint8).expand(4000, 3, 5, 5).contiguous()
    mirrored = CropAndFlip(0, True)(ramp, np.arange(4000), 0, 0)[:, 0, 0, 0] == 4
    assert 1850 < mirrored.sum() < 2150


def test_an_empty_batch_stays_empty() -> None:
    empty = torch.empty(0, 3, 4, 4, dtype=torch.uint8)
    assert CropAndFlip(1, True)(empty, np.empty(0, np.int64), 0, 0).shape == (0, 3, 4, 4)


def test_settings_are_read_and_nothing_means_none() -> None:
    assert CropAndFlip.from_config({"crop_padding": 4, "horizontal_flip": True}) == CropAndFlip(4, True)
    assert CropAndFlip.from_config(None) is None
    assert CropAndFlip.from_config({"crop_padding": 0, "horizontal_flip": False}) is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"crop_pading": 4},
            r"data\.augment\.crop_pading is unknown; the choices are crop_padding, horizontal_flip",
        ),
        ({"crop_padding": "4"}, r"data\.augment\.crop_padding is '4'; it must be of type int"),
        ({"crop_padding": True}, r"data\.augment\.crop_padding is True; it must be of type int"),
        ({"crop_padding": -1}, r"data\.augment\.crop_padding is -1"),
    ],
)
def test_wrong_settings_are_refused_by_key(settings: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        CropAndFlip.from_config(settings)
