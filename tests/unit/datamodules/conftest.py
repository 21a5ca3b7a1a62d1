from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from datamodules.base import ImageDataModule, LabelledImages, RetrievalDataModule
from datamodules.images.source import ImageArray
from datamodules.sampling.splits import per_class_parts

if TYPE_CHECKING:
    from pathlib import Path

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class TinyCifar:
    """Six files of a few records each, and what they hold."""

    pixels: np.ndarray
    labels: np.ndarray

    def blocks(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
        parts = np.split(np.arange(len(self.labels)), 6)
        return [(name, self.pixels[part], self.labels[part]) for name, part in zip(names, parts, strict=True)]

    def write_python(self, root: Path) -> None:
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for name, pixels, labels in self.blocks():
            batch = {"batch_label": name, "labels": labels.tolist(), "data": pixels, "filenames": ["a.png"]}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        meta = {"label_names": CIFAR10_NAMES, "num_vis": 3072, "num_cases_per_batch": 10000}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))

    def write_binary(self, root: Path) -> None:
        folder = root / "cifar-10-batches-bin"
        folder.mkdir(parents=True)
        for name, pixels, labels in self.blocks():
            records = bytearray()
            for image, label in zip(pixels, labels, strict=True):
                records += bytes([label]) + image.tobytes()
            (folder / f"{name}.bin").write_bytes(bytes(records))
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")


@pytest.fixture
def tiny_cifar() -> TinyCifar:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 3072), dtype=np.uint8)
    return TinyCifar(pixels, np.arange(120) % 10)


def coloured_images(size: int, side: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (size, 3, side, side), dtype=np.uint8))


class ToyRetrieval(RetrievalDataModule):
    """60 random images of 3 classes; 4 queries and 12 training images of each, all but queries searched."""

    size = 60

    @property
    def protocol_name(self) -> str:
        return "toy"

    def load(self) -> LabelledImages:
        labels = torch.arange(self.size) % 3
        return LabelledImages(ImageArray(coloured_images(self.size), labels, self.image_size), ("a", "b", "c"))

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        parts, rest = per_class_parts(labels, [("query", 4), ("train", 12)], self.split_seed)
        return {**parts, "database": torch.cat([parts["train"], rest]).sort().values}


class ToyMultiLabel(ImageDataModule):
    """40 images with up to 4 labels, first 30 for training."""

    @property
    def protocol_name(self) -> str:
        return "toy-multi"

    def load(self) -> LabelledImages:
        rng = np.random.default_rng(2)
        labels = torch.from_numpy((rng.random((40, 4)) < [0.9, 0.5, 0.3, 0.2]).astype(np.float32))
        return LabelledImages(ImageArray(coloured_images(40), labels, self.image_size), ("a", "b", "c", "d"))

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"train": torch.arange(30), "test": torch.arange(30, 40)}


@pytest.fixture
def toy() -> Any:
    def build(**settings: Any) -> ToyRetrieval:
        return ToyRetrieval(**{"image_size": None, "seed": 0, "batch_size": 8, **settings})

    return build


@pytest.fixture
def toy_multi_label() -> Any:
    def build(**settings: Any) -> ToyMultiLabel:
        return ToyMultiLabel(**{"image_size": None, "seed": 0, "batch_size": 8, **settings})

    return build
