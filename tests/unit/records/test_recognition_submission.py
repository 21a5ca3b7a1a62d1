from __future__ import annotations

import zipfile

import pytest

from records.errors import UserError
from records.submission import read_submission, write_submission

IMAGES = ["image_1.jpg", "image_2.jpg", "image_10.jpg"]
PREDICTIONS = {name: [number, 5, 6, 7, 402] for number, name in enumerate(IMAGES)}


def test_the_files_hold_a_line_per_image_in_order(tmp_path):
    archive = write_submission(tmp_path, dict(reversed(PREDICTIONS.items())), IMAGES, 403)
    lines = (tmp_path / "result.txt").read_text().splitlines()
    assert lines == ["image_1.jpg 0 5 6 7 402", "image_2.jpg 1 5 6 7 402", "image_10.jpg 2 5 6 7 402"]
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == ["result.txt"]
        assert content.read("result.txt").decode().splitlines() == lines
    assert read_submission(archive, IMAGES, 403) == PREDICTIONS == read_submission(tmp_path / "result.txt", IMAGES, 403)


def test_equal_results_are_equal_files(tmp_path):
    files = [write_submission(tmp_path / name, PREDICTIONS, IMAGES, 403) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_2.jpg": [1, 2, 3, 4]}, "image_2.jpg has 4 classes, not 5"),
        ({"image_2.jpg": [1, 2, 3, 4, 4]}, "image_2.jpg names a class twice"),
        ({"image_2.jpg": [1, 2, 3, 4, 403]}, "outside 0 .. 402"),
        ({"other.jpg": [1, 2, 3, 4, 5]}, "other.jpg is no image of the test part"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write_submission(tmp_path, {**PREDICTIONS, **changes}, IMAGES, 403)
    assert not list(tmp_path.iterdir())


def test_missing_images_are_counted(tmp_path):
    with pytest.raises(UserError, match=r"image_0 is missing; .* and 2 more"):
        write_submission(tmp_path, {}, [f"image_{number}" for number in range(7)], 403)


def test_a_foreign_file_is_refused(tmp_path):
    file = tmp_path / "result.txt"
    file.write_text("image_1.jpg 1 2 3 4 5\nimage_1.jpg 1 2 3 4 5\nimage_2.jpg 1 2 3 x 5\n")
    with pytest.raises(UserError, match=r"line 2 names image_1.jpg again; line 3 holds .*; image_2.jpg is missing"):
        read_submission(file, IMAGES, 403)
    with pytest.raises(UserError, match="cannot be read as a submission"):
        read_submission(tmp_path / "none.zip", IMAGES, 403)
