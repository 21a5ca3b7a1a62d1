from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.augmentation.crop_and_flip import CropAndFlip
from datamodules.images.source import ImageArray, ImageView, resize, whole_batch


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8))


def test_a_batch_follows_the_contract(images: torch.Tensor) -> None:
    positions = torch.tensor([3, 19, 7, 0])
    view = ImageView(ImageArray(images, torch.arange(20)), positions)
    batch = view.__getitems__([2, 0])
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [7, 3]
    assert batch["index"].tolist() == [2, 0]
    assert batch["index"].dtype == batch["label"].dtype == torch.int64
    assert torch.equal(batch["image"], images[[7, 3]])
    assert whole_batch(batch) is batch
    single = view[1]
    assert torch.equal(single["image"], images[19])
    assert single["label"].item() == 19


def test_cached_and_uncached_resizing_give_the_same_pixels(images: torch.Tensor) -> None:
    positions = torch.tensor([5, 1, 12])
    cached = ImageArray(images, torch.arange(20), 16)
    uncached = ImageArray(images, torch.arange(20), 16, cache_bytes=0)
    assert torch.equal(cached.read(positions), uncached.read(positions))
    assert cached.read(positions).shape == (3, 3, 16, 16)
    assert torch.equal(uncached.pictures(positions), images[positions])


def test_resizing_agrees_with_interpolation_in_floats(images: torch.Tensor) -> None:
    for size in (5, 16):
        expected = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        assert (resize(images, size).float() - expected).abs().max() <= 1
    assert resize(images, 8) is images
    assert resize(images[:0], 16).shape == (0, 3, 16, 16)


def test_reading_hands_out_memory_of_its_own(images: torch.Tensor) -> None:
    source = ImageArray(images, torch.arange(20))
    source.read(torch.tensor([0]))[:] = 0
    source.pictures(torch.tensor([0]))[:] = 0
    assert images[0].any()


def test_repeated_draws_of_a_sample_are_augmented_apart_and_keep_their_index(images: torch.Tensor) -> None:
    view = ImageView(ImageArray(images, torch.arange(20)), torch.arange(20), CropAndFlip(3, True), 0, 0)
    batch = view.__getitems__([4 + 20 * repeat for repeat in range(8)])
    assert batch["index"].tolist() == [4] * 8
    assert len({picture.numpy().tobytes() for picture in batch["image"]}) > 4


def test_an_empty_batch_has_the_right_shapes(images: torch.Tensor) -> None:
    view = ImageView(ImageArray(images, torch.zeros(20, 5)), torch.arange(20), CropAndFlip(3, True))
    batch = view.__getitems__([])
    assert batch["image"].shape == (0, 3, 8, 8)
    assert batch["label"].shape == (0, 5)
    assert batch["index"].shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(4, 3, 8, 8),
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ],
)
def test_images_of_another_kind_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        ImageArray(wrong, torch.zeros(len(wrong)))


def test_labels_must_be_as_many_as_images(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="20 images but 19 labels"):
        ImageArray(images, torch.zeros(19))
