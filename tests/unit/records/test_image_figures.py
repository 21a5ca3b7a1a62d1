"""The pictures of one image: what they draw, what they say of themselves, and what does not go together."""

import numpy as np
import pytest
from PIL import Image

from records.image_figures import neighbours_picture, prediction_picture

IMAGE = np.full((3, 8, 6), 100, dtype=np.uint8)


def test_a_prediction_tells_classes_code_and_truth(tmp_path):
    code = np.arange(20) % 3 == 0
    picture = prediction_picture(IMAGE, "a.jpg", [("cat", 0.75), ("dog", 0.25)], code, truth="dog")
    assert picture.title == "cat, probability 0.750"
    for part in ("a.jpg", "cat 0.750, dog 0.250", "its own class is dog", "7 of the 20 bits"):
        assert part in picture.description
    image, scores, bits = picture.figure.axes
    assert [bar.get_width() for bar in scores.patches] == [0.75, 0.25]
    cells = np.ma.filled(bits.images[0].get_array(), np.nan)
    assert cells.shape == (3, 8)
    np.testing.assert_array_equal(cells.ravel()[:20], code)
    assert np.isnan(cells.ravel()[20:]).all()
    assert image.get_xlabel() == "dog"
    picture.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.info["Description"] == picture.description


def test_a_prediction_without_classes_or_without_a_code():
    assert prediction_picture(IMAGE, "a.jpg", [], np.ones(16, bool)).title == "16 bits"
    cosines = prediction_picture(IMAGE, "a.jpg", [("cat", -0.5), ("dog", -0.75)], quantity="cosine")
    assert cosines.title == "cat, cosine -0.500"
    assert cosines.figure.axes[1].get_xlim()[0] == -0.75
    with pytest.raises(ValueError, match="classes or a code"):
        prediction_picture(IMAGE, "a.jpg", [])


@pytest.mark.parametrize(("hits", "signs"), [(None, ["", ""]), ([True, False], ["✓ ", "✗ "])])
def test_neighbours_are_named_with_their_distance(hits, signs):
    picture = neighbours_picture(IMAGE, "query 3", np.stack([IMAGE] * 2), [0, 4], ["cat", "dog"], hits)
    labels = [axes.get_xlabel() for axes in picture.figure.axes]
    assert labels == ["query", f"{signs[0]}distance 0\ncat", f"{signs[1]}distance 4\ndog"]
    assert "0 to 4" in picture.description
    assert ("1 of 2 share a class" in picture.description) == (hits is not None)


def test_many_neighbours_are_drawn_in_part():
    picture = neighbours_picture(IMAGE, "q", np.stack([IMAGE] * 53), range(53), ["a"] * 53)
    assert len(picture.figure.axes) == 51
    assert "53 nearest images, 50 of them shown" in picture.description


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="1 neighbours, 2 distances"):
        neighbours_picture(IMAGE, "q", IMAGE[None], [1, 2], ["a"])
    with pytest.raises(ValueError, match="0 neighbours"):
        neighbours_picture(IMAGE, "q", IMAGE[None][:0], [], [])
