from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from datamodules.images.encoder_views import ImageFileViews, ViewSettings, centre_view
from records.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate([(50, 31), (31, 50), (24, 24), (200, 9)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("resize", [16, 20])
@pytest.mark.parametrize("number", range(4))
def test_the_centre_is_torchvisions(files: list[Path], number: int, resize: int) -> None:
    with Image.open(files[number]) as image:
        ours = np.asarray(centre_view(image, 16, resize))
        scaled = transforms.resize(image, [resize], interpolation=transforms.InterpolationMode.BICUBIC)
        theirs = np.asarray(transforms.center_crop(scaled, [16, 16]))
    assert np.array_equal(ours, theirs)


def test_views_are_functions_of_seed_view_and_image(files: list[Path]) -> None:
    views = ImageFileViews(files, ViewSettings(16, views=3, seed=1))
    assert views[1].shape == (3, 3, 16, 16)
    assert views[1].dtype == torch.uint8
    assert torch.equal(views[1], ImageFileViews(files, ViewSettings(16, views=3, seed=1))[1])
    assert torch.equal(views[1][:2], ImageFileViews(files, ViewSettings(16, views=2, seed=1))[1])
    assert not torch.equal(views[1], ImageFileViews(files, ViewSettings(16, views=3, seed=2))[1])
    assert not torch.equal(views[1][0], views[1][1])


def test_without_views_there_is_the_centre(files: list[Path]) -> None:
    assert ViewSettings(16).count == 1
    assert len(ImageFileViews(files, ViewSettings(16))) == 4
    assert ImageFileViews(files, ViewSettings(16))[3].shape == (1, 3, 16, 16)


def test_crops_of_a_gradient_cover_half_the_area_and_some_are_mirrored(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    views = ImageFileViews([tmp_path / "ramp.png"], ViewSettings(32, views=200))[0].float()
    slope = (views[:, 0, :, -4:].mean(dim=(1, 2)) - views[:, 0, :, :4].mean(dim=(1, 2))) / 255
    assert 70 < int((slope < 0).sum()) < 130
    # widths lie between sqrt(0.5 * 3/4) = 0.61 and 1, and four columns of 32 are lost at both ends
    assert slope.abs().min() > 0.61 * 28 / 32 - 0.05
    assert slope.abs().max() > 0.8


def test_settings_that_change_pixels_change_the_words() -> None:
    settings = [ViewSettings(16), ViewSettings(32), ViewSettings(16, 2), ViewSettings(16, 2, 1), ViewSettings(32, 2)]
    assert len({one.text for one in [*settings, ViewSettings(16, resize=20)]}) == 6
    assert ViewSettings(16, resize=16).text == ViewSettings(16).text == "short side 16 bicubic, centre crop"
    assert ViewSettings(16, seed=3).text == ViewSettings(16).text


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"the image .*x.jpg cannot be read"):
        ImageFileViews([tmp_path / "x.jpg"], ViewSettings(16))[0]
