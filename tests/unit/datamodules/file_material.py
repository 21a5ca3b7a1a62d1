"""Small real images as files: scikit-learn's digits, in class folders, lists and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SETTINGS: dict[str, Any] = {"image_size": 16, "seed": 0, "batch_size": 8}


@dataclass(frozen=True)
class DigitFiles:
    """Digits 0 .. classes - 1 as grey PNG files of 8 x 12 pixels: `CLASS/NUMBER.png`, in the order of the data set."""

    root: Path
    names: list[str]
    labels: list[int]
    classes: int

    def rows(self, positions: list[int]) -> list[str]:
        """Lines of a list: names and one-hot labels."""
        hot = np.eye(self.classes, dtype=int)
        return [f"{self.names[place]} {' '.join(map(str, hot[self.labels[place]]))}" for place in positions]

    def write_lists(self, train: list[int], query: list[int], database: list[int], end: str = "\n") -> None:
        for file, positions in (("train", train), ("test", query), ("database", database)):
            write_lines(self.root / f"{file}.txt", self.rows(positions), end)


def write_lines(path: Path, lines: list[str], end: str = "\n") -> None:
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


def write_digits(root: Path, per_class: int, classes: int = 3) -> DigitFiles:
    digits = load_digits()
    names, labels = [], []
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for number, place in enumerate(np.flatnonzero(digits.target == label)[:per_class]):
            grey = np.rint(digits.images[place] * (255 / 16)).astype(np.uint8)
            name = f"{label}/{number:02}.png"
            Image.fromarray(np.pad(grey, ((0, 0), (2, 2)))).save(root / name)
            names.append(name)
            labels.append(label)
    return DigitFiles(root, names, labels, classes)
