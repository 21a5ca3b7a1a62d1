from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import functional as published

from datamodules.images.image_files import ImageFiles, content_digests, decode, default_resize, find_unreadable
from records.errors import UserError


@pytest.fixture(scope="module")
def flower() -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg")).resize((160, 107))


def source(folder: Path, names: list[str], image_size: int | None = 32, resize: int | None = None) -> ImageFiles:
    return ImageFiles(folder, names, torch.arange(len(names)), image_size, resize)


def difference(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


def test_evaluation_shows_the_published_resize_and_crop(tmp_path: Path, flower: Image.Image) -> None:
    flower.save(tmp_path / "wide.png")
    flower.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "tall.png")
    images = source(tmp_path, ["wide.png", "tall.png"], 56, 64).read(torch.tensor([1, 0]))
    assert images.shape == (2, 3, 56, 56)
    assert images.dtype == torch.uint8
    for row, name in enumerate(["tall.png", "wide.png"]):
        expected = published.center_crop(published.resize(decode(tmp_path / name), 64), [56, 56])
        error = np.abs(images[row].permute(1, 2, 0).numpy().astype(int) - np.asarray(expected, dtype=int))
        assert error.max() <= 2
        assert error.mean() < 0.3


def test_the_default_resize_is_256_for_224_and_in_proportion() -> None:
    assert [default_resize(size) for size in (224, 384, 32)] == [256, 439, 37]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_of_the_same_picture(tmp_path: Path, flower: Image.Image, mode: str) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    flower.convert(mode).save(tmp_path / f"a.{suffix}")
    found = decode(tmp_path / f"a.{suffix}")
    assert found.mode == "RGB"
    grey = mode in ("L", "LA", "1")
    expected = flower.convert("1" if mode == "1" else "L").convert("RGB") if grey else flower
    assert difference(found, expected) < {"P": 20, "CMYK": 8, "YCbCr": 8}.get(mode, 0.5)


def test_a_palette_with_transparency_warns_of_nothing(
    tmp_path: Path, flower: Image.Image, recwarn: pytest.WarningsRecorder
) -> None:
    flower.convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert difference(decode(tmp_path / "a.png"), flower.convert("P").convert("RGB")) == 0
    assert not list(recwarn)


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        grey = np.asarray(decode(tmp_path / name))[:, :, 0]
        assert np.abs(grey - ramp / 257).max() <= 1
    Image.fromarray(ramp.astype(np.int32) * 9).save(tmp_path / "b.tif")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "c.tif")
    assert find_unreadable([tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif"], "pixels") == {
        1: "its pixels reach from 0 to 589815, beyond 16 bits",
        2: "its pixels are floating-point numbers of unknown range",
    }


def test_a_camera_s_rotation_is_carried_out(tmp_path: Path, flower: Image.Image) -> None:
    turned = flower.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture has to be turned by 270 degrees
    turned.save(tmp_path / "a.png", exif=exif)
    assert difference(decode(tmp_path / "a.png"), flower) == 0


def damaged(folder: Path, flower: Image.Image) -> list[Path]:
    flower.save(folder / "good.jpg")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    return [folder / name for name in ("good.jpg", "truncated.jpg", "text.jpg", "empty.png", "missing.jpg")]


def test_each_scan_finds_what_it_looks_for(tmp_path: Path, flower: Image.Image) -> None:
    paths = damaged(tmp_path, flower)
    assert find_unreadable(paths, "exists") == {4: "there is no such file"}
    header = find_unreadable(paths, "header")
    assert list(header) == [2, 3, 4]
    assert header[2] == "it is no image that Pillow knows"
    pixels = find_unreadable(paths, "pixels")
    assert list(pixels) == [1, 2, 3, 4]
    assert "truncated" in pixels[1]
    assert list(find_unreadable(paths * 200, "exists")) == list(range(4, 1000, 5))


def test_a_file_that_breaks_off_in_a_run_is_named_with_the_mend(tmp_path: Path, flower: Image.Image) -> None:
    damaged(tmp_path, flower)
    files = source(tmp_path, ["good.jpg", "truncated.jpg"])
    files.read(torch.tensor([0]))
    with pytest.raises(UserError, match=r"truncated\.jpg cannot be read.*data\.scan=pixels data\.unreadable=drop"):
        files.read(torch.tensor([0, 1]))


def test_pictures_of_files_of_different_sizes_share_one_size(tmp_path: Path, flower: Image.Image) -> None:
    flower.save(tmp_path / "a.png")
    flower.resize((20, 30)).save(tmp_path / "b.png")
    pictures = source(tmp_path, ["a.png", "b.png"]).pictures(torch.tensor([1, 0, 1]))
    assert pictures.shape == (3, 3, 224, 224)
    assert torch.equal(pictures[0], pictures[2])


def test_an_empty_batch_has_the_right_shape(tmp_path: Path) -> None:
    assert source(tmp_path, ["a.png"]).read(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 32, 32)


def test_equal_content_has_equal_digests(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    first, second, third = content_digests(tmp_path / name for name in "abc")
    assert first == third != second


def test_a_source_needs_a_size_and_a_resize_that_a_crop_fits_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.image_size is null"):
        source(tmp_path, ["a.png"], None)
    with pytest.raises(UserError, match=r"data\.resize is 31, less than the image size 32"):
        source(tmp_path, ["a.png"], 32, 31)
    with pytest.raises(ValueError, match="1 images but 2 labels"):
        ImageFiles(tmp_path, ["a.png"], torch.arange(2), 32)
