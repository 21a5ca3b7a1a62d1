"""A small iBioHash in the contest's own layout, of real images: scikit-learn's digits as .jpg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Archive:
    """What was written: names and classes of the labelled images, names of the others with the class they hide."""

    root: Path
    labelled: dict[str, str]
    query: dict[str, int]
    gallery: dict[str, int]


def write_archive(root: Path, per_class: int = 60, classes: int = 4, queries: int = 3, searched: int = 27) -> Archive:
    """Write train.csv, iBioHash_Train/, Query/Query/ and Gallery/Gallery/ below `root`."""
    digits = load_digits()
    folders = {
        "train": root / "iBioHash_Train",
        "query": root / "Query" / "Query",
        "gallery": root / "Gallery" / "Gallery",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    labelled: dict[str, str] = {}
    hidden: dict[str, dict[str, int]] = {"query": {}, "gallery": {}}
    ends = {"train": per_class, "query": per_class + queries, "gallery": per_class + queries + searched}
    for label in range(classes):
        for number, place in enumerate(np.flatnonzero(digits.target == label)[: ends["gallery"]]):
            part = next(part for part, end in ends.items() if number < end)
            # names that do not tell the class, in an order of their own
            name = f"{place * 7919 % 1797:05}.jpg"
            write_digit(folders[part] / name, digits.images[place])
            if part == "train":
                labelled[name] = f"species {label}"
            else:
                hidden[part][name] = label
    rows = [f"{name},{label}" for name, label in sorted(labelled.items())]
    (root / "train.csv").write_text("\n".join(["image_id,label", *rows]) + "\n")
    return Archive(root, labelled, hidden["query"], hidden["gallery"])


def write_digit(path: Path, pixels: np.ndarray) -> None:
    """Write a digit (8, 8) in 0 .. 16 as a grey JPEG of 32 x 32 pixels."""
    grey = np.rint(np.kron(pixels, np.ones((4, 4))) * (255 / 16)).astype(np.uint8)
    Image.fromarray(grey).save(path, quality=95)
