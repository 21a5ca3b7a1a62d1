from __future__ import annotations

import numpy as np
import torch

from datamodules.digits_fewshot import DigitsFewShot
from datamodules.encoded.digit_strokes import HANDS, draw_digit
from datamodules.encoded.gradient_histograms import gradient_histograms


def accuracy(weights: torch.Tensor, data: DigitsFewShot) -> float:
    test = data.data.sets["test"]
    return float(((test.features @ weights.T).argmax(dim=1) == test.labels).double().mean())


def prototypes(data: DigitsFewShot) -> torch.Tensor:
    means = torch.stack([data.support_features[data.support_labels == number].mean(dim=0) for number in range(10)])
    return torch.nn.functional.normalize(means, dim=1)


def test_sizes_widths_and_unit_length() -> None:
    data = DigitsFewShot(seed=0, shots=4)
    assert data.sizes == {"train": 40, "val": 40, "test": 359}
    assert data.support_features.shape == (40, 128)
    assert data.text_features is not None
    assert data.text_features.shape == (10, 128)
    for rows in (data.support_features, data.text_features, data.data.sets["test"].features):
        assert (rows.norm(dim=1) - 1).abs().max() < 1e-6


def test_drawn_digits_recognise_handwriting_and_shots_help() -> None:
    data = [DigitsFewShot(seed=0, shots=shots) for shots in (1, 16)]
    text = data[0].text_features
    assert text is not None
    zero_shot = accuracy(text, data[0])
    one, many = (accuracy(torch.nn.functional.normalize(text + prototypes(d), dim=1), d) for d in data)
    assert zero_shot > 0.6
    assert zero_shot < one < many


def test_text_knows_neither_seed_nor_support() -> None:
    texts = [DigitsFewShot(seed=seed, split_seed=seed, shots=shots).text_features for seed, shots in ((0, 1), (3, 16))]
    assert texts[0] is not None
    assert texts[1] is not None
    assert torch.equal(texts[0], texts[1])


def test_pictures_are_those_of_the_split() -> None:
    data = DigitsFewShot(seed=0, shots=2)
    pictures = data.pictures("train", torch.arange(20))
    assert pictures.shape == (20, 3, 8, 8)
    features = torch.from_numpy(gradient_histograms(pictures[:, 0].numpy() / 255))
    assert ((features * data.support_features).sum(dim=1) > 0.999).all()


def test_a_digit_fills_the_page_from_top_to_bottom_and_hands_differ() -> None:
    drawn = {hand: draw_digit(0, hand) for hand in HANDS}
    for page in drawn.values():
        assert page.shape == (8, 8)
        assert 0 <= page.min() < page.max() <= 1
        assert page[0].max() > 0
        assert page[7].max() > 0
    assert len({page.tobytes() for page in drawn.values()}) == len(HANDS)


def slow_histograms(picture: np.ndarray) -> np.ndarray:
    """Histograms of one picture by loops over pixels, with the smoothing written as a sum over shifts."""

    def smooth(image: np.ndarray, width: float) -> np.ndarray:
        reach = int(4 * width + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
        weights /= weights.sum()
        padded = np.pad(image, reach, mode="symmetric")
        result = np.zeros_like(image)
        for down in range(2 * reach + 1):
            for right in range(2 * reach + 1):
                part = padded[down : down + len(image), right : right + len(image)]
                result += weights[down] * weights[right] * part
        return result

    image = smooth(picture, 0.7)
    votes = np.zeros((8, 8, 8))
    for row in range(8):
        for column in range(8):
            above, below = max(row - 1, 0), min(row + 1, 7)
            left, right = max(column - 1, 0), min(column + 1, 7)
            down = (image[below, column] - image[above, column]) / (below - above)
            across = (image[row, right] - image[row, left]) / (right - left)
            place = (np.degrees(np.arctan2(down, across)) % 360) / 45
            lower = int(place)
            votes[lower % 8, row, column] += np.hypot(down, across) * (1 - (place - lower))
            votes[(lower + 1) % 8, row, column] += np.hypot(down, across) * (place - lower)
    cells = np.stack([smooth(direction, 1.0)[1::2, 1::2] for direction in votes]).ravel()
    return cells / np.linalg.norm(cells)


def test_histograms_against_loops() -> None:
    pictures = np.random.default_rng(0).random((3, 8, 8))
    slow = np.stack([slow_histograms(picture) for picture in pictures])
    assert np.abs(gradient_histograms(pictures) - slow).max() < 1e-6


def test_a_blank_picture_has_no_direction() -> None:
    assert not gradient_histograms(np.zeros((1, 8, 8))).any()
