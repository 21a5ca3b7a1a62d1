import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from records import canvas
from records.figures import sweep_picture
from records.notices import collect_run_warnings


@pytest.fixture
def fonts_anew():
    canvas.fonts.cache_clear()
    yield
    canvas.fonts.cache_clear()


def drawn(name, tmp_path):
    """Draw a row of that name; return the pixels beside the axis, where it stands."""
    sweep_picture([(name, [0.1], 0.1, 0.05)], metric="test/score").save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        return np.asarray(image.convert("L"))


def test_class_names_are_drawn_in_a_font_that_has_their_signs(tmp_path, fonts_anew):
    if canvas.fonts() == (canvas.FONT,):
        pytest.skip("no font with Chinese signs is installed here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = drawn("\u77e5\u66f4", tmp_path), drawn("\u9e1f\u9c7c", tmp_path)
    # boxes would be the same for both
    assert first.shape != second.shape or (first != second).any()


def test_signs_that_no_font_has_are_told_once_with_the_mend(tmp_path, fonts_anew, monkeypatch):
    monkeypatch.setattr(canvas, "FURTHER_FONTS", ())
    with collect_run_warnings() as told:
        first, second = drawn("\u77e5\u66f4", tmp_path), drawn("\u9e1f\u9c7c", tmp_path)
    assert len(told) == 1
    assert "fonts-noto-cjk" in told[0]
    np.testing.assert_array_equal(first, second)


def test_names_that_can_be_drawn_warn_of_nothing_and_other_warnings_pass(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn("R\u00e9sum\u00e9 \u017b\u00f3\u0142w", tmp_path)
    with pytest.warns(DeprecationWarning, match="by the way"), canvas._missing_signs_told():
        warnings.warn("by the way", DeprecationWarning, stacklevel=1)


def test_a_font_that_was_installed_after_matplotlibs_list_was_made_is_found(fonts_anew, monkeypatch):
    manager = font_manager.fontManager
    names = {one.name for one in manager.ttflist}
    (name, *_) = sorted(names - {canvas.FONT})
    files = {one.fname for one in manager.ttflist if one.name == name}
    monkeypatch.setattr(manager, "ttflist", [one for one in manager.ttflist if one.name != name])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: sorted(files))
    monkeypatch.setattr(canvas, "FURTHER_FONTS", (name,))
    assert canvas.fonts() == (canvas.FONT, name)
