"""The pictures of a few-shot test: which are written, for which data and tasks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.few_shot_pictures import FewShotPictures, Samples, text_cosines

NAMES = ("cat", "dog", "emu")
FEATURES = torch.eye(3).repeat(4, 1)


class View:
    def __len__(self):
        return len(FEATURES)

    def __getitems__(self, draws):
        rows = torch.tensor(draws)
        return {"feature": FEATURES[rows], "label": rows % 3, "index": rows}


class Data(SimpleNamespace):
    class_names = NAMES

    def evaluation_view(self, split):
        assert split == "test"
        return View()


class WithImages(Data):
    def pictures(self, split, positions):
        return torch.zeros(len(positions), 3, 8, 8, dtype=torch.uint8)


def end_of_test(directory, data, zero=True, **module):
    trainer = SimpleNamespace(is_global_zero=zero, datamodule=data, loggers=(), global_step=1)
    FewShotPictures(str(directory), images=5).on_test_end(trainer, SimpleNamespace(**module))
    plots = directory / "plots"
    return sorted(path.name for path in plots.iterdir()) if plots.is_dir() else []


@pytest.fixture
def fitted():
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 4]])
    head = SimpleNamespace(predict=lambda features: 5 * features)
    return {"recognition_result": SimpleNamespace(confusion=confusion), "classifier": head}


def test_data_with_images_get_both_pictures(tmp_path, fitted):
    assert end_of_test(tmp_path, WithImages(), **fitted) == ["guesses.png", "hardest_pairs.png"]
    with Image.open(tmp_path / "plots" / "guesses.png") as image:
        assert "5 test images" in image.info["Description"]
        assert "right for 5" in image.info["Description"]


def test_data_without_images_get_no_guesses(tmp_path, fitted):
    assert end_of_test(tmp_path, Data(), **fitted) == ["hardest_pairs.png"]


def test_data_with_descriptions_of_classes_get_their_cosines(tmp_path, fitted):
    # every sample is its class's own axis, and "dog" is described as a cat
    data = WithImages(text_features=torch.tensor([[2.0, 0, 0], [3.0, 0, 0], [0, 0, 0.5]]))
    assert "text_cosines.png" in end_of_test(tmp_path, data, **fitted)
    with Image.open(tmp_path / "plots" / "text_cosines.png") as image:
        told = image.info["Description"]
    shown = Samples(FEATURES[:4], [0, 1, 2, 0], np.zeros((4, 3, 8, 8), dtype=np.uint8))
    axes = text_cosines(shown, data.text_features, NAMES).figure.axes[4]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "emu"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "emu", "cat"]
    assert np.array_equal(axes.images[0].get_array(), [[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0]])
    assert "5 test images" in told
    assert text_cosines(shown, None, NAMES) is None


def test_a_perfect_result_has_no_hardest_pairs(tmp_path, fitted):
    fitted["recognition_result"] = SimpleNamespace(confusion=np.diag([4, 4, 4]))
    assert end_of_test(tmp_path, Data(), **fitted) == []


def test_other_tasks_and_other_ranks_write_nothing(tmp_path, fitted):
    assert end_of_test(tmp_path, WithImages(), recognition_result=fitted["recognition_result"]) == []
    assert end_of_test(tmp_path, WithImages(), retrieval_result=object()) == []
    assert end_of_test(tmp_path, WithImages(), zero=False, **fitted) == []
