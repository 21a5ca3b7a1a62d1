from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.training_images import TrainingImages, training_images
from records.canvas import Picture
from records.notices import RunWarning


class View:
    def __init__(self, epoch: int, views: int) -> None:
        self.epoch, self.views = epoch, views

    def __getitems__(self, draws: list[int]) -> dict[str, torch.Tensor]:
        images = torch.full((len(draws), 3, 4, 4), 50 * (self.epoch + 1), dtype=torch.uint8)
        batch = {"image": images, "label": torch.tensor(draws) % 2, "index": torch.tensor(draws)}
        return batch if self.views == 1 else {**batch, "views": torch.stack([images] * self.views)}


class Data:
    sizes: ClassVar = {"train": 20}
    class_names = ("cat", "dog")

    def __init__(self, views: int = 1) -> None:
        self.views = views

    def training_view(self, epoch: int) -> View:
        return View(epoch, self.views)

    def pictures(self, split: str, positions: torch.Tensor) -> torch.Tensor:
        assert split == "train"
        return torch.zeros(len(positions), 3, 8, 8, dtype=torch.uint8)


class Features:
    sizes: ClassVar = {"train": 20}
    class_names = ("cat", "dog")


def rows_of(data: Any) -> list[str]:
    picture = training_images(data, 0, 5)
    assert picture is not None
    (axes,) = picture.figure.axes
    return [label.get_text() for label in axes.get_yticklabels()]


def test_rows_are_the_stored_images_and_those_of_three_epochs() -> None:
    assert rows_of(Data()) == ["stored", "epoch 0", "epoch 1", "epoch 2"]
    assert rows_of(Data(views=2))[:3] == ["stored", "epoch 0, view 1", "epoch 0, view 2"]


def test_the_seed_chooses_the_images_and_their_classes_are_named() -> None:
    picture = training_images(Data(), 3, 5)
    assert picture is not None
    chosen = np.sort(np.random.default_rng(3).permutation(20)[:5])
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [("cat", "dog")[one % 2] for one in chosen]
    assert (np.asarray(axes.images[0].get_array())[-1, 0] == 150).all()


def test_data_without_images_have_no_picture() -> None:
    assert training_images(Features(), 0, 5) is None


def test_the_first_rank_writes_once(tmp_path: Path) -> None:
    file = tmp_path / "plots" / "training_images.png"
    callback = TrainingImages(str(tmp_path))
    trainer: Any = SimpleNamespace(is_global_zero=False, datamodule=Data(), loggers=[], global_step=0)
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    assert not file.exists()
    trainer.is_global_zero = True
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    with Image.open(file) as image:
        assert image.info["Title"] == "Images as training sees them"
    file.write_bytes(b"kept")
    callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
    assert file.read_bytes() == b"kept"


def test_a_full_disk_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Picture, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Picture, "save", refuse)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=Data(), loggers=[], global_step=0)
    with pytest.warns(RunWarning, match="No space left"):
        TrainingImages(str(tmp_path)).on_fit_start(trainer, None)  # type: ignore[arg-type]
