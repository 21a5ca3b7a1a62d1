"""Rotation, AutoAugment, Cutout and the contrastive views, against torchvision's functions image by image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.augmentation import auto_augment as policy_module
from datamodules.augmentation.auto_augment import CIFAR10_POLICY, FILL, auto_augment, geometry_map, strength
from datamodules.augmentation.contrastive import (
    ContrastiveAugmentation,
    blurred,
    change_brightness,
    change_contrast,
    change_hue,
    change_saturation,
    random_boxes,
    resized_crops,
)
from datamodules.augmentation.crop_and_flip import CropAndFlip
from datamodules.augmentation.training import TrainingAugmentation, cut_out
from datamodules.augmentation.warping import rotations, warp
from datamodules.digits_lt import DigitsLongTail
from records.errors import UserError

THEIR_NAMES = {
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "colour",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "Invert": "invert",
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (48, 3, 32, 32), dtype=np.uint8))


def same_share(left: torch.Tensor, right: torch.Tensor, levels: int = 0) -> float:
    return float(((left.int() - right.int()).abs() <= levels).float().mean())


def test_rotations_are_those_of_torchvision(images: torch.Tensor) -> None:
    degrees = torch.linspace(-15, 15, len(images))
    turned = warp(images, rotations(degrees))
    for image, angle, result in zip(images, degrees.tolist(), turned, strict=True):
        # a place that falls on the edge of two pixels may be read from either
        assert same_share(result, F.rotate(image, angle)) > 0.995


@pytest.mark.parametrize("value", [0.21, -0.3])
def test_shears_and_translations_are_those_of_torchvision(images: torch.Tensor, value: float) -> None:
    angle = math.degrees(math.atan(value))
    steps = int(value * 32)
    affine: dict[str, Any] = {"angle": 0.0, "scale": 1.0, "fill": [FILL] * 3}
    expected = {
        "shear_x": F.affine(images, translate=[0, 0], shear=[angle, 0.0], center=[0, 0], **affine),
        "shear_y": F.affine(images, translate=[0, 0], shear=[0.0, angle], center=[0, 0], **affine),
        "translate_x": F.affine(images, translate=[steps, 0], shear=[0.0, 0.0], **affine),
        "translate_y": F.affine(images, translate=[0, steps], shear=[0.0, 0.0], **affine),
    }
    for operation, theirs in expected.items():
        ours = warp(images, geometry_map(operation, value, images.shape).expand(len(images), -1, -1), FILL)
        assert same_share(ours, theirs) > 0.995, operation


def test_the_policy_and_its_strengths_are_those_of_torchvision() -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    ours = [tuple((step.operation, step.probability) for step in pair) for pair in CIFAR10_POLICY]
    listed = [tuple((THEIR_NAMES[name], chance) for name, chance, _ in pair) for pair in theirs._policies]
    assert ours == listed
    for ours_pair, theirs_pair in zip(CIFAR10_POLICY, theirs._policies, strict=True):
        for step, (name, _, magnitude) in zip(ours_pair, theirs_pair, strict=True):
            values = theirs._AUGMENTATION_SPACE[name][0](10, 32, 32)
            if values is None:
                assert strength(step.operation, step.magnitude) == 0
                continue
            assert step.magnitude == magnitude
            scale = {"translate_x": 32, "translate_y": 32, "solarize": 1 / 255}.get(step.operation, 1)
            expected = float(values[magnitude])
            assert scale * strength(step.operation, magnitude) == pytest.approx(expected, rel=1e-5), step


def one_step(image: torch.Tensor, operation: str, value: float) -> torch.Tensor:
    if operation in policy_module._COLOURS:
        return policy_module._COLOURS[operation](image[None], value)[0]
    return warp(image[None], geometry_map(operation, value, image[None].shape), FILL)[0]


def test_a_batch_equals_images_taken_one_by_one(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.arange(1000, 1048)
    whole = auto_augment(images, draw, 3, 2)
    applied: list[tuple[str, float]] = []
    plain = policy_module._apply

    def watch(images: torch.Tensor, steps: Any, happens: Any, signs: Any) -> torch.Tensor:
        signed = policy_module._SIGNED_RANGES
        applied.extend(
            (step.operation, strength(step.operation, step.magnitude) * (sign if step.operation in signed else 1))
            for step, happen, sign in zip(steps, happens, signs, strict=True)
            if happen
        )
        return plain(images, steps, happens, signs)

    monkeypatch.setattr(policy_module, "_apply", watch)
    for place, number in enumerate(draw):
        applied.clear()
        alone = auto_augment(images[place : place + 1], np.array([number]), 3, 2)[0]
        assert torch.equal(whole[place], alone)
        expected = images[place]
        for operation, value in applied:
            expected = one_step(expected, operation, value)
        assert torch.equal(alone, expected)


def test_pairs_probabilities_and_signs_have_their_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[Any, Any, Any]] = []

    def keep(images: torch.Tensor, steps: Any, happens: Any, signs: Any) -> torch.Tensor:
        counted.append((steps, happens, signs))
        return images

    monkeypatch.setattr(policy_module, "_apply", keep)
    auto_augment(torch.zeros(25000, 3, 1, 1, dtype=torch.uint8), np.arange(25000), 0, 0)
    for place, (steps, happens, signs) in enumerate(counted):
        for pair in CIFAR10_POLICY:
            mine = [number for number, step in enumerate(steps) if step is pair[place]]
            assert 850 < len(mine) < 1150
            assert happens[mine].mean() == pytest.approx(pair[place].probability, abs=0.06)
        assert signs.mean() == pytest.approx(0, abs=0.03)


def test_cutout_blackens_a_square_that_may_lie_half_outside(images: torch.Tensor) -> None:
    images = images.clamp(min=1)
    rows, columns = np.arange(48) % 32, np.arange(48) * 7 % 32
    result = cut_out(images, 16, rows, columns)
    for place in range(48):
        expected = images[place].clone()
        for row in range(32):
            for column in range(32):
                if -8 <= row - rows[place] < 8 and -8 <= column - columns[place] < 8:
                    expected[:, row, column] = 0
        assert torch.equal(result[place], expected)


def test_padded_crops_of_a_view_are_those_of_training(images: torch.Tensor) -> None:
    colours_off = {"jitter_probability": 0.0, "grey_probability": 0.0}
    view = ContrastiveAugmentation(smallest_crop=1.0, crop_padding=4, **colours_off)
    draw = np.arange(len(images))
    assert torch.equal(view(images, draw, 0, 0), CropAndFlip(4, True)(images, draw, 0, 0))


@pytest.mark.parametrize(
    "augment",
    [
        TrainingAugmentation(4, True, 15.0, "cifar10", 16),
        TrainingAugmentation(rotation=15.0),
        ContrastiveAugmentation(),
        ContrastiveAugmentation(smallest_crop=1.0, jitter_probability=1.0, grey_probability=0.0),
        ContrastiveAugmentation(blur_probability=0.5),
    ],
    ids=["all", "rotation", "contrastive", "jitter", "blur"],
)
def test_it_is_a_pure_function_of_seed_epoch_and_draw(images: torch.Tensor, augment: Any) -> None:
    before = images.clone()
    draw = np.arange(48)
    whole = augment(images, draw, 0, 0)
    assert torch.equal(images, before)
    assert whole.dtype == torch.uint8
    piecewise = torch.cat([augment(images[i : i + 7], draw[i : i + 7], 0, 0) for i in range(0, 48, 7)])
    assert torch.equal(whole, piecewise)
    for other in ((draw + 48, 0, 0), (draw, 1, 0), (draw, 0, 1)):
        assert not torch.equal(whole, augment(images, *other))
    assert augment(images[:0], draw[:0], 0, 0).shape == (0, 3, 32, 32)


def test_crop_and_flip_alone_are_those_of_crop_and_flip(images: torch.Tensor) -> None:
    draw = np.arange(48)
    expected = CropAndFlip(4, True)(images, draw, 1, 2)
    assert torch.equal(TrainingAugmentation(4, True)(images, draw, 1, 2), expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (change_brightness, lambda image, value: F.adjust_brightness(image, 1 + value)),
        (change_contrast, lambda image, value: F.adjust_contrast(image, 1 + value)),
        (change_saturation, lambda image, value: F.adjust_saturation(image, 1 + value)),
        (change_hue, F.adjust_hue),
    ],
)
def test_colours_change_as_in_torchvision(images: torch.Tensor, ours: Any, theirs: Any) -> None:
    pixels = images.float() / 255
    pixels[0] = 0.5  # grey has no hue
    strengths = torch.linspace(-0.4, 0.4, len(images))
    changed = ours(pixels, strengths[:, None, None, None])
    for image, value, result in zip(pixels, strengths.tolist(), changed, strict=True):
        assert torch.allclose(result, theirs(image, value), atol=2e-5)


def test_crops_are_those_of_torchvision(images: torch.Tensor) -> None:
    pixels = images.float()
    boxes = random_boxes(images.shape, 0.2, np.arange(48), 0, 0)
    crops = resized_crops(pixels, boxes)
    for image, (top, left, height, width), result in zip(pixels, boxes.tolist(), crops, strict=True):
        expected = F.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        assert torch.allclose(result, expected, atol=0.05)


def test_boxes_lie_inside_and_have_the_areas_and_ratios_asked_for() -> None:
    boxes = random_boxes(torch.Size([4000, 3, 32, 32]), 0.2, np.arange(4000), 0, 0)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(32, scale=(0.2, 1.0))
    drawn = [crop.make_params([torch.zeros(3, 32, 32)]) for _ in range(4000)]
    theirs = np.array([[params["height"], params["width"], params["top"], params["left"]] for params in drawn])
    ours = np.stack([height, width, top, left], axis=1)
    assert ours.mean(axis=0) == pytest.approx(theirs.mean(axis=0), abs=0.4)
    assert ours.std(axis=0) == pytest.approx(theirs.std(axis=0), abs=0.4)
    for share in (0.01, 0.5, 0.99):
        area, theirs_area = np.quantile(height * width, share), np.quantile(theirs[:, 0] * theirs[:, 1], share)
        assert area == pytest.approx(theirs_area, rel=0.05)


def test_a_blurred_pixel_is_a_mean_of_those_around_it() -> None:
    height, width = 5, 8
    pixels = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)).double()
    sigmas = [0.1, 0.7, 2.0]
    found = blurred(pixels, torch.tensor(sigmas).double())
    near = range(-6, 7)
    for image, sigma, result in zip(pixels, sigmas, found, strict=True):
        for y, x in ((0, 0), (2, 3), (4, 7), (1, 6)):
            total, mass = torch.zeros(3, dtype=torch.float64), 0.0
            for dy in near:
                for dx in near:
                    weight = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
                    total += weight * image[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                    mass += weight
            assert result[:, y, x].tolist() == pytest.approx((total / mass).tolist(), abs=1e-7)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_blur_of_pillow_is_nearest_to_ours_of_the_same_sigma(images: torch.Tensor, sigma: float) -> None:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    theirs = np.stack([np.array(one.filter(ImageFilter.GaussianBlur(radius=sigma))) for one in pictures])
    wanted = torch.from_numpy(theirs).permute(0, 3, 1, 2)
    factors = (0.8, 0.9, 1.0, 1.1, 1.25)
    ours = [blurred(images.float(), torch.full((len(images),), factor * sigma)) for factor in factors]
    differences = [float((one - wanted).abs().mean()) for one in ours]
    assert differences.index(min(differences)) == 2


def test_as_many_images_are_blurred_as_are_asked_for() -> None:
    image = torch.zeros(2000, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    changed = ContrastiveAugmentation(1.0, False, 0.0, 0.0, 0.0, 0.0, 0.5)(image, np.arange(2000), 0, 0)
    # a sigma below 0.29 leaves a byte as it is
    peaks = changed[:, 0, 4, 4] / 255
    assert (peaks < 1).float().mean() == pytest.approx(0.5 * (2 - 0.29) / 1.9, abs=0.03)
    # half of the sigmas lie above 1.05, and the peak is 1 / (2 pi sigma^2)
    assert peaks[peaks < 1].median() == pytest.approx(1 / (2 * math.pi * 1.15**2), abs=0.02)


def test_jitter_and_grey_happen_as_often_as_they_are_asked_for() -> None:
    image = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(2000, 3, 4, 4)
    grey = ContrastiveAugmentation(1.0, False, 0.0, 0.0, 0.0, 0.2)(image, np.arange(2000), 0, 0)
    assert (grey[:, 0] == grey[:, 1]).all(dim=(1, 2)).float().mean() == pytest.approx(0.2, abs=0.03)
    changed = ContrastiveAugmentation(1.0, False, 0.4, 0.1, 0.8, 0.0)(image, np.arange(2000), 0, 0)
    assert (changed != image).any(dim=(1, 2, 3)).float().mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        (TrainingAugmentation, {"rotation": -1}, r"data\.augment\.rotation is -1"),
        (TrainingAugmentation, {"policy": "imagenet"}, r"data\.augment\.policy is 'imagenet'; .* none, cifar10"),
        (TrainingAugmentation, {"cutout": -1}, r"data\.augment\.cutout is -1"),
        (TrainingAugmentation, {"cutout": 1.5}, r"data\.augment\.cutout is 1\.5; it must be of type int"),
        (TrainingAugmentation, {"crop_padding": -1}, r"data\.augment\.crop_padding is -1"),
        (TrainingAugmentation, {"cut_out": 1}, r"data\.augment\.cut_out is unknown; the choices are crop_padding"),
        (ContrastiveAugmentation, {"smallest_crop": 0}, r"data\.view_augment\.smallest_crop is 0"),
        (ContrastiveAugmentation, {"crop_padding": -1}, r"data\.view_augment\.crop_padding is -1"),
        (ContrastiveAugmentation, {"hue": 0.6}, r"data\.view_augment\.hue is 0\.6; it must lie in \[0, 0\.5\]"),
        (ContrastiveAugmentation, {"blur": 0.6}, r"data\.view_augment\.blur is unknown"),
        (
            ContrastiveAugmentation,
            {"blur_probability": 1.5},
            r"data\.view_augment\.blur_probability is 1\.5; it must lie",
        ),
    ],
)
def test_wrong_settings_are_refused_by_key(kind: Any, settings: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        kind.from_config(settings)


def test_nothing_set_means_no_augmentation() -> None:
    assert TrainingAugmentation.from_config(None) is None
    assert TrainingAugmentation.from_config({"crop_padding": 0, "rotation": 0}) is None
    assert TrainingAugmentation.from_config({"rotation": 15}) == TrainingAugmentation(rotation=15)


def test_a_batch_holds_the_views_that_are_asked_for() -> None:
    def data(views: int) -> DigitsLongTail:
        return DigitsLongTail(image_size=16, seed=0, batch_size=32, views=views, augment={"crop_padding": 2})

    one, three = next(iter(data(1).train_dataloader())), next(iter(data(3).train_dataloader()))
    assert "views" not in one
    assert three["views"].shape == (3, 32, 3, 16, 16)
    assert three["views"].dtype == torch.uint8
    assert torch.equal(three["image"], one["image"])
    assert torch.equal(three["views"][0], one["image"])
    assert torch.equal(three["index"], one["index"])
    assert not torch.equal(three["views"][1], three["views"][2])
    assert data(3).training_view(0)[5]["views"].shape == (3, 3, 16, 16)
    assert "views" not in next(iter(data(3).test_dataloader()[0]))
    with pytest.raises(UserError, match=r"data\.views is 0"):
        data(0)
