"""Scikit-learn's digits in the form of the contest, and two encoders of images and words without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from datamodules.encoded.digit_strokes import HANDS, draw_digit
from datamodules.encoded.gradient_histograms import gradient_histograms

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PREFIXES = {"Animal_": (0, 1, 2, 3), "Thu-dog_": (4, 5, 6), "Stanford-Cars_": (7, 8, 9)}
CLASS_NAMES = tuple(prefix + WORDS[digit] for prefix, digits in PREFIXES.items() for digit in digits)


def write_contest(root: Path, per_class: int = 40, test_images: int = 60) -> list[int]:
    """Write classes, training images of all of them and a flat test folder; return the test folder's labels."""
    digits = load_digits()
    (root / "TestSetB").mkdir(parents=True)
    lines = []
    for number, name in enumerate(CLASS_NAMES):
        for place in np.flatnonzero(digits.target == number)[:per_class]:
            path = Path("TrainSet") / name / f"{place}.png"
            _write(root / path, digits.images[place])
            lines.append(f"{path.as_posix()} {number}")
    names = [f"{name} {number}" for number, name in enumerate(CLASS_NAMES)]
    (root / "classes_b.txt").write_text("\n".join(names))
    (root / "train.txt").write_text("\n".join(lines))
    for number in range(test_images):
        _write(root / "TestSetB" / f"image_{number}.png", digits.images[-1 - number])
    return [int(digits.target[-1 - number]) for number in range(test_images)]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(path)


class DigitEncoder:
    """Images as histograms of gradients or as pixels; a sentence as the digit that it names, drawn with a pen."""

    image_size = resize = 8
    has_text = True

    def __init__(self, kind: str) -> None:
        self.name = kind
        self.identity = kind.ljust(64, "0")
        self.encoded = 0

    @property
    def parameters(self) -> dict[str, int]:
        return {"image": 1000, "text": 10}

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        self.encoded += len(images)
        return self._features(images[:, 0].double().numpy() / 255)

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        rows = []
        for sentence in sentences:
            digit = next(number for number, word in enumerate(WORDS) if word in sentence)
            drawn = np.stack([draw_digit(digit, hand) for hand in HANDS])
            rows.append(F.normalize(self._features(drawn), dim=1).mean(dim=0))
        return torch.stack(rows)

    def _features(self, grey: np.ndarray) -> torch.Tensor:
        if self.name == "gradients":
            return torch.from_numpy(gradient_histograms(grey))
        return torch.from_numpy(grey.reshape(len(grey), -1)).float() + 0.01
