"""The pictures of few-shot recognition: what they say, and that they can be drawn and read."""

import numpy as np
import pytest
from PIL import Image

from records.fewshot_figures import (
    cosine_heatmap_picture,
    guesses_picture,
    hardest_pairs,
    hardest_pairs_picture,
    shots_picture,
)

CONFUSION = np.array([[8, 1, 1], [3, 6, 1], [0, 0, 20]])


def written(picture, folder):
    path = folder / "picture.png"
    picture.save(path)
    with Image.open(path) as image:
        return image.size, dict(image.info)


def test_pairs_are_ranked_by_the_share_of_both_classes_samples():
    pairs = hardest_pairs(CONFUSION, 5)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert (pairs[0].there, pairs[0].back, pairs[0].rate) == (1, 3, 4 / 20)
    assert len(hardest_pairs(CONFUSION, 2)) == 2


def test_pairs_that_are_never_confused_are_left_out():
    assert hardest_pairs(np.diag([3, 4]), 5) == []
    assert hardest_pairs_picture(np.diag([3, 4]), ["a", "b"]) is None


def test_the_pairs_are_drawn_with_their_numbers(tmp_path):
    picture = hardest_pairs_picture(CONFUSION, ["cat", "dog", "ship"])
    texts = [text.get_text().strip() for text in picture.figure.axes[0].texts]
    assert texts[0] == "1 of 10, 3 of 10"
    assert picture.figure.axes[0].get_yticklabels()[0].get_text() == "cat, dog"
    size, caption = written(picture, tmp_path)
    assert min(size) > 300
    assert "3 pairs" in caption["Description"]


def test_shots_are_drawn_as_lines_with_intervals(tmp_path):
    series = {"task=gda": [(1, 0.5, 0.1), (4, 0.7, float("nan"))], "task=lpp": [(4, 0.6, 0.05)]}
    picture = shots_picture(series, metric="test/accuracy")
    axes = picture.figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["task=gda", "task=lpp"]
    assert "test/accuracy" in written(picture, tmp_path)[1]["Description"]
    with pytest.raises(ValueError, match="one point"):
        shots_picture({"task=gda": []}, metric="test/accuracy")


def test_guesses_stand_beside_their_image(tmp_path):
    images = np.zeros((3, 3, 8, 8), dtype=np.uint8)
    guesses = [["a", "b"], ["b", "a"], ["a", "b"]]
    picture = guesses_picture(images, ["a", "a", "b"], guesses, np.array([[0.9, 0.1]] * 3))
    labels = [label.get_text() for label in picture.figure.axes[3].get_yticklabels()]
    assert labels == ["b", "a ✓"]
    assert "right for 1" in written(picture, tmp_path)[1]["Description"]
    with pytest.raises(ValueError, match="do not go together"):
        guesses_picture(images, ["a"], guesses, np.zeros((3, 2)))


def test_the_heatmap_frames_the_best_caption_of_each_image(tmp_path):
    cosines = np.array([[0.3, 0.1], [0.2, 0.25], [0.1, 0.2]])
    images = [np.zeros((3, 5, 5), dtype=np.uint8)] * 2
    picture = cosine_heatmap_picture(cosines, images, ["one", "two", "three"])
    frames = [patch.get_xy() for patch in picture.figure.axes[2].patches]
    assert [(round(x + 0.46), round(y + 0.46)) for x, y in frames] == [(0, 0), (1, 1)]
    written(picture, tmp_path)
    with pytest.raises(ValueError, match="3 captions"):
        cosine_heatmap_picture(cosines[:2], images, ["one", "two", "three"])
