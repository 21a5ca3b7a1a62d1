from __future__ import annotations

import numpy as np
import pytest

from records.data_figures import CELL, GAP, class_counts_picture, learning_rate_picture, training_images_picture


def test_the_most_frequent_class_comes_first() -> None:
    picture = class_counts_picture([3, 0, 90, 4], ["a", "b", "c", "d"])
    (axes,) = picture.figure.axes
    assert [bar.get_height() for bar in axes.patches] == [90, 4, 3, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "d", "a", "b"]
    assert axes.get_yscale() == "log"
    assert picture.description == (
        "97 images in all; 90 in the most frequent class, 0 in the rarest; imbalance ratio 30.0; "
        "1 classes without a training image."
    )


def test_many_classes_are_not_named_and_balanced_ones_need_no_logarithm() -> None:
    (axes,) = class_counts_picture([5] * 100, [f"class {number}" for number in range(100)]).figure.axes
    assert axes.get_yscale() == "linear"
    assert axes.get_xlabel() == "Class, the most frequent first"
    with pytest.raises(ValueError, match="2 class counts and 1 names"):
        class_counts_picture([1, 2], ["a"])


def test_images_of_any_size_fill_their_cells() -> None:
    small = np.zeros((2, 3, 2, 2), dtype=np.uint8)
    small[1, 0] = 255
    wide = np.full((2, 3, 50, 200), 7, dtype=np.uint8)
    (axes,) = training_images_picture({"stored": wide, "epoch 0": small}, ["a", "b"]).figure.axes
    sheet = np.asarray(axes.images[0].get_array())
    assert sheet.shape == (2 * CELL + GAP, 2 * CELL + GAP, 3)
    second = sheet[CELL + GAP :, CELL + GAP :]
    assert (second == [255, 0, 0]).all()
    assert (sheet[:CELL, :CELL] == 7).all(axis=-1).sum() == CELL * CELL // 4
    with pytest.raises(ValueError, match="1 titles do not fit the images of stored"):
        training_images_picture({"stored": wide}, ["a"])


def test_each_group_of_parameters_has_its_curve() -> None:
    curves = {"head": [(0.0, 0.1), (1.0, 0.0)], "backbone": [(0.0, 0.01), (1.0, 0.0)]}
    picture = learning_rate_picture(curves)
    (axes,) = picture.figure.axes
    assert [line.get_label() for line in axes.lines] == ["head", "backbone"]
    assert list(axes.lines[1].get_ydata()) == [0.01, 0.0]
    assert "the highest is 0.1" in picture.description
    with pytest.raises(ValueError, match="one curve"):
        learning_rate_picture({})
