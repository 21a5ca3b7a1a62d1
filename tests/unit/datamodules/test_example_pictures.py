"""The eight example pictures: their shapes and captions, and what is said where scikit-image is not installed."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from datamodules.images.example_pictures import CAPTIONS, as_colours, example_pictures
from records.errors import UserError


def test_without_scikit_image_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        example_pictures()


def test_each_picture_is_read_once_in_the_order_of_its_caption(monkeypatch):
    colour = {name: np.full((4, 6, 3), place, dtype=np.uint8) for place, name in enumerate(CAPTIONS)}
    readers = {name: (lambda picture=picture: picture) for name, picture in colour.items() if name != "motorcycle"}
    stereo = (np.zeros((4, 6, 3), dtype=np.uint8), colour["motorcycle"], np.zeros((4, 6)))
    skimage = ModuleType("skimage")
    skimage.data = SimpleNamespace(**readers, stereo_motorcycle=lambda: stereo)
    monkeypatch.setitem(sys.modules, "skimage", skimage)
    images, captions = example_pictures()
    assert captions == list(CAPTIONS.values())
    assert [image.shape for image in images] == [(3, 4, 6)] * 8
    assert [int(image[0, 0, 0]) for image in images] == list(range(8))


def test_grey_and_bool_pictures_become_colours():
    grey = np.array([[0, 200]], dtype=np.uint8)
    assert as_colours(grey).tolist() == [[[0, 200]]] * 3
    assert as_colours(grey > 100).tolist() == [[[0, 255]]] * 3
