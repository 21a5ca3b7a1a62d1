import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks.logged_pictures import log_picture
from callbacks.recognition_pictures import RecognitionPictures
from lit_modules.metrics.per_class import ClassRecognition
from records.metrics_file import write_rows
from records.notices import RunWarning

NAMES = ("cat", "dog", "emu", "fox, red")
COUNTS = (5, 300, 60, 30)


def evaluated(seed=0, counts=COUNTS):
    random = torch.Generator().manual_seed(seed)
    metric = ClassRecognition(bootstrap=10)
    if counts is not None:
        metric.group_by(counts)
    label = torch.arange(40) % 4
    metric.update(torch.randn(40, 4, generator=random) + torch.eye(4)[label], label, torch.arange(40))
    return metric.compute()


def end_of_test(directory, zero=True, loggers=(), **results):
    trainer = SimpleNamespace(
        is_global_zero=zero, datamodule=SimpleNamespace(class_names=NAMES), loggers=loggers, global_step=7
    )
    RecognitionPictures(str(directory)).on_test_end(trainer, SimpleNamespace(**results))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("counts", [COUNTS, None])
def test_the_pictures_and_tables_of_a_result(tmp_path, counts):
    result = evaluated(counts=counts)
    end_of_test(tmp_path, recognition_result=result)
    pictures = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert pictures == ["class_recalls.png", "confusion.png", "reliability.png"]
    for name in pictures:
        with Image.open(tmp_path / "plots" / name) as image:
            assert image.info["Description"]
    head, *rows = rows_of(tmp_path / "recognition" / "classes.csv")
    assert head == ["class", "name", "training_images", "test_images", "recall"]
    order = [0, 1, 2, 3] if counts is None else [1, 2, 3, 0]
    assert [int(row[0]) for row in rows] == order
    assert [row[1] for row in rows] == [NAMES[label] for label in order]
    assert [float(row[4]) for row in rows] == [result.recalls[label] for label in order]
    assert [row[2] for row in rows] == ["" if counts is None else str(counts[label]) for label in order]
    head, *rows = rows_of(tmp_path / "recognition" / "confusion.csv")
    assert head == ["true class", *NAMES]
    assert [[int(cell) for cell in row[1:]] for row in rows] == result.confusion.tolist()


def test_recalls_before_are_drawn_and_listed(tmp_path):
    before = evaluated(seed=1)
    end_of_test(tmp_path, recognition_result=evaluated(), recognition_before=before)
    head, *rows = rows_of(tmp_path / "recognition" / "classes.csv")
    assert head[-1] == "recall_before"
    assert {int(row[0]): float(row[-1]) for row in rows} == dict(enumerate(before.recalls.tolist()))
    with Image.open(tmp_path / "plots" / "class_recalls.png") as image:
        assert "rose" in image.info["Description"]


def test_curves_come_from_the_table_of_metrics(tmp_path):
    rows = [{"epoch": epoch, "step": epoch, "val/hm": 0.1, "val/accuracy": 0.5} for epoch in range(2)]
    write_rows(tmp_path / "metrics.csv", ["epoch", "step", "val/hm", "val/accuracy"], rows)
    end_of_test(tmp_path, recognition_result=evaluated())
    assert (tmp_path / "plots" / "recall_curves.png").is_file()


@pytest.mark.parametrize("case", [{"zero": False, "recognition_result": "any"}, {}, {"recognition_result": None}])
def test_nothing_on_other_ranks_and_for_other_tasks(tmp_path, case):
    end_of_test(tmp_path, **case)
    assert list(tmp_path.iterdir()) == []


class Board:
    """Stands for TensorBoard's logger."""

    def __init__(self, error=None):
        self.images = {}
        self.error = error
        self.experiment = self

    def add_image(self, name, pixels, global_step, dataformats):
        if self.error:
            raise self.error
        self.images[name] = (pixels, global_step, dataformats)


def test_loggers_that_can_show_pictures_get_them(tmp_path):
    board, table = Board(), CSVLogger(tmp_path / "logs")
    end_of_test(tmp_path, loggers=[board, table], recognition_result=evaluated())
    assert sorted(board.images) == ["test/class_recalls", "test/confusion", "test/reliability"]
    pixels, step, layout = board.images["test/confusion"]
    with Image.open(tmp_path / "plots" / "confusion.png") as image:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    assert (step, layout) == (7, "HWC")


def test_weights_and_biases_gets_the_file(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    sent = []
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, *given, **named: sent.append((given, named)))
    log_picture([WandbLogger()], "test/confusion", tmp_path / "confusion.png", 3)
    assert sent == [(("test/confusion", [str(tmp_path / "confusion.png")]), {"step": 3})]


def test_a_logger_that_fails_costs_a_warning(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.warns(RunWarning, match="Board did not take the picture a: the disk is full"):
        log_picture([Board(OSError("the disk is full"))], "a", tmp_path / "a.png", 0)
