import io

import numpy as np
import pytest
from PIL import Image

from records.canvas import GREEN, RED
from records.figures import _close_groups, gallery_picture, precision_recall_picture, training_curves_picture
from records.metrics_file import columns_of, write_rows


def curve(bits):
    radius = np.arange(bits + 1)
    return 1 - 0.9 * radius / bits, radius / bits


def gallery(rows, hit, size=(8, 8), database_size=(8, 8)):
    random = np.random.default_rng(0)
    queries = random.integers(0, 256, (rows, 3, *size), dtype=np.uint8)
    neighbours = random.integers(0, 256, (rows, 8, 3, *database_size), dtype=np.uint8)
    distances = np.arange(rows * 8).reshape(rows, 8)
    return gallery_picture(queries, neighbours, hit, distances, [f"class {row}" for row in range(rows)])


def test_caption_is_in_the_png(tmp_path):
    precision, recall = curve(16)
    precision_recall_picture(precision, recall, bits=16, title="A title").save(tmp_path / "plots" / "pr.png")
    with Image.open(tmp_path / "plots" / "pr.png") as image:
        assert image.info["Title"] == "A title"
        assert "16-bit" in image.info["Description"]
        assert image.size == (1152, 832)


def test_curve_holds_the_numbers_given():
    precision, recall = curve(16)
    axes = precision_recall_picture(precision, recall, bits=16).figure.axes[0]
    line, marks = axes.lines
    assert np.array_equal(line.get_xdata(), recall)
    assert np.array_equal(line.get_ydata(), precision)
    assert np.array_equal(marks.get_xdata(), recall[:5])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Recall (fraction)", "Precision (fraction)")


def test_radii_beyond_the_code_and_empty_balls_are_not_marked():
    axes = precision_recall_picture([float("nan"), 0.9, 0.5], [0.0, 0.5, 1.0], bits=2).figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


def test_labels_of_close_points_are_joined():
    assert _close_groups([0, 1, 2, 3], [1, 1, 1, 1], [0.0, 0.01, 0.5, 0.51]) == [[0, 1], [2, 3]]


def test_wrong_number_of_radii():
    with pytest.raises(ValueError, match="17 radii"):
        precision_recall_picture([1.0], [1.0], bits=16)


def test_gallery_marks_hits_and_misses():
    hit = np.zeros((2, 8), bool)
    hit[0, :5] = True
    figure = gallery(2, hit).figure
    signs = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()[:1] in "✓✗"]
    assert signs[0] == "✓ 0"
    assert signs[5] == "✗ 5"
    assert sum(sign.startswith("✓") for sign in signs) == 5
    colours = [axes.spines["left"].get_edgecolor()[:3] for axes in figure.axes]
    as_rgb = {name: tuple(int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in (GREEN, RED)}
    assert colours.count(as_rgb[GREEN]) == 5
    assert colours.count(as_rgb[RED]) == 11
    assert "5 of 16 are hits" in gallery(2, hit).description


def test_gallery_takes_any_picture_sizes(tmp_path):
    gallery(1, np.ones((1, 8), bool), size=(40, 100), database_size=(64, 32)).save(tmp_path / "g.png")
    with Image.open(tmp_path / "g.png") as image:
        assert image.width > image.height


def test_gallery_shapes_must_fit():
    with pytest.raises(ValueError, match="do not fit"):
        gallery(2, np.ones((3, 8), bool))


def test_pixels_are_drawn_unchanged():
    image = np.zeros((1, 3, 2, 2), np.uint8)
    image[0, 0, 0, 1] = 255
    drawn = gallery_picture(image, np.zeros((1, 8, 3, 2, 2), np.uint8), np.ones((1, 8), bool), np.zeros((1, 8)), ["a"])
    assert drawn.figure.axes[0].images[0].get_array()[0, 1].tolist() == [255, 0, 0]


def test_training_curves(tmp_path):
    rows = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train/loss": 1 / (epoch + 1),
            "val/map@all": 0.5,
            "val/empty_queries": 1.0,
            "val/empty_balls@radius2": 0.0,
            "train/data_wait": 0.1,
        }
        for epoch in range(3)
    ]
    path = tmp_path / "metrics.csv"
    write_rows(path, columns_of(rows), rows)
    figure = training_curves_picture(path).figure
    loss, validation = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3]
    assert [line.get_label() for line in validation.lines] == ["val/map@all"]


def test_legends_of_training_curves_cover_no_curve(tmp_path):
    names = ["val/map@all", "val/precision@10", "val/recall@10", "val/precision@radius2", "val/recall@radius2"]
    rows = [{"epoch": epoch, "step": epoch, "train/loss": 1.0, **dict.fromkeys(names, epoch / 3)} for epoch in range(3)]
    write_rows(tmp_path / "metrics.csv", columns_of(rows), rows)
    picture = training_curves_picture(tmp_path / "metrics.csv")
    picture.save(tmp_path / "curves.png")
    width, height = picture.figure.bbox.size
    for axes in picture.figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(axes.get_window_extent())
        assert not legend.overlaps(axes.xaxis.label.get_window_extent())
        assert 0 <= legend.x0 <= legend.x1 <= width
        assert 0 <= legend.y0 <= legend.y1 <= height


def test_one_epoch_is_no_curve(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [{"epoch": 0, "step": 10, "train/loss": 1.0}]
    write_rows(path, columns_of(rows), rows)
    assert training_curves_picture(path) is None


def test_same_numbers_give_the_same_bytes(tmp_path):
    files = []
    for number in range(2):
        precision_recall_picture(*curve(8), bits=8).save(tmp_path / f"{number}.png")
        files.append(io.BytesIO((tmp_path / f"{number}.png").read_bytes()).getvalue())
    assert files[0] == files[1]
