from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from records.classification_figures import (
    confusion_picture,
    order_by_frequency,
    recall_curves_picture,
    recall_picture,
    reliability_picture,
)
from records.metrics_file import write_rows

NAMES = ("ant", "bee", "cat", "dog")
RECALLS = np.array([0.5, 0.0, 0.75, np.nan])
COUNTS = (10, 500, 50, 10)


def saved(picture, folder):
    picture.save(folder / "picture.png")
    with Image.open(folder / "picture.png") as image:
        assert image.info["Title"] == picture.title
        assert image.info["Description"] == picture.description
        return np.asarray(image.convert("RGB"))


def test_classes_are_ordered_by_training_images_and_then_by_label():
    assert order_by_frequency(COUNTS).tolist() == [1, 2, 0, 3]


def test_bars_stand_in_the_order_of_training_images(tmp_path):
    groups = {"many": np.array([0, 1, 0, 0], bool), "medium": np.array([0, 0, 1, 0], bool), "few": RECALLS != 0.75}
    groups["few"] &= ~groups["many"]
    picture = recall_picture(RECALLS, NAMES, COUNTS, groups=groups)
    bars, counts = picture.figure.axes
    assert [round(bar.get_height(), 9) for bar in bars.patches] == [0.0, 0.75, 0.5]
    assert [bar.get_height() for bar in counts.patches] == [500, 50, 10, 10]
    assert [text.get_text() for text in counts.get_xticklabels()] == ["bee", "cat", "ant", "dog"]
    assert [text.get_text() for text in bars.texts] == ["many 0.000", "medium 0.750", "few 0.500"]
    (cross,) = [line for line in bars.lines if line.get_marker() == "x"]
    assert cross.get_xdata().tolist() == [3]
    assert "the lowest 0.000, and 1 are at zero" in picture.description
    assert "1 classes without samples are marked by a cross" in picture.description
    assert saved(picture, tmp_path).std() > 10


def test_old_recalls_are_lines_across_the_bars(tmp_path):
    before = np.array([0.25, 0.5, 0.75, 1.0])
    picture = recall_picture(RECALLS, NAMES, COUNTS, before=before)
    (lines,) = picture.figure.axes[0].collections
    assert [segment[0][1] for segment in lines.get_segments()] == [0.5, 0.75, 0.25, 1.0]
    assert "1 classes rose, 1 fell" in picture.description
    assert picture.title.endswith("before and after")
    assert saved(picture, tmp_path).std() > 10


@pytest.mark.parametrize("counts", [None, tuple(range(100, 0, -1))])
def test_many_classes_keep_their_space(counts, tmp_path):
    recalls = np.linspace(1, 0, 100)
    picture = recall_picture(recalls, [f"a long name {number}" for number in range(100)], counts, before=recalls[::-1])
    saved(picture, tmp_path)
    panel = picture.figure.axes[0].get_position()
    assert panel.height > 0.5
    assert panel.width > 0.8


def test_recalls_and_names_must_fit():
    with pytest.raises(ValueError, match="there are 4 recalls, and class_names has 3, before has 2"):
        recall_picture(RECALLS, NAMES[:3], COUNTS, before=np.zeros(2))


def write_table(path: Path, rows):
    columns = ["epoch", "step", *dict.fromkeys(name for row in rows for name in row)]
    write_rows(path, columns, [{"epoch": epoch, "step": epoch, **row} for epoch, row in enumerate(rows)])


def test_curves_are_of_each_mean_and_part(tmp_path):
    rows = [{f"{part}/{name}": 0.1 * e for part in ("train", "val") for name in ("accuracy", "hm")} for e in range(3)]
    write_table(tmp_path / "metrics.csv", rows)
    picture = recall_curves_picture(tmp_path / "metrics.csv")
    assert [axes.get_title(loc="left") for axes in picture.figure.axes] == ["Accuracy", "Harmonic mean"]
    for axes in picture.figure.axes:
        assert [line.get_label() for line in axes.lines] == ["train", "val"]
        assert list(axes.lines[1].get_ydata()) == [row["val/hm"] for row in rows]
    assert saved(picture, tmp_path).std() > 10


def test_one_epoch_makes_no_curve(tmp_path):
    write_table(tmp_path / "metrics.csv", [{"val/accuracy": 0.5}])
    assert recall_curves_picture(tmp_path / "metrics.csv") is None


def test_confusions_are_shares_of_the_true_class_in_order_of_training_images(tmp_path):
    confusion = np.array([[3, 1, 0, 0], [0, 5, 5, 0], [2, 0, 6, 0], [0, 0, 0, 0]])
    picture = confusion_picture(confusion, NAMES, COUNTS)
    shares = picture.figure.axes[0].images[0].get_array()
    assert shares[:3].tolist() == [[0.5, 0.5, 0, 0], [0, 0.75, 0.25, 0], [0.25, 0, 0.75, 0]]
    assert shares.mask[3].all()
    assert "Grey rows" in picture.description
    assert saved(picture, tmp_path).std() > 10
    large = confusion_picture(np.eye(60, dtype=np.int64), [str(number) for number in range(60)])
    assert len(large.figure.axes[0].texts) == 0


def test_reliability_shows_accuracy_and_confidence_of_filled_bins(tmp_path):
    edges = np.linspace(0, 1, 5)
    counts = np.array([0, 10, 0, 30])
    accuracy, confidence = np.array([np.nan, 0.2, np.nan, 0.9]), np.array([np.nan, 0.4, np.nan, 0.94])
    picture = reliability_picture(edges, counts, accuracy, confidence, 0.08)
    upper, lower = picture.figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0.2, 0.9]
    assert [bar.get_x() for bar in upper.patches] == [0.25, 0.75]
    assert [bar.get_height() for bar in lower.patches] == [0, 0.25, 0, 0.75]
    assert "error 0.080" in picture.description
    assert "over-confident by 0.080" in picture.description
    assert saved(picture, tmp_path).std() > 10
