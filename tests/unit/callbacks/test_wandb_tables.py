import numpy as np
import pytest

from callbacks.wandb_tables import confusion_content, distinct_names


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "b"], ["a", "b"]),
        (["crane", "robin", "crane"], ["crane (0)", "robin", "crane (2)"]),
        (["crane", "crane", "crane (0)"], ["crane (0)", "crane (1)", "crane (0) (2)"]),
    ],
)
def test_classes_of_one_name_are_told_apart(names, told):
    assert distinct_names(names) == told


def test_every_cell_of_the_confusion_matrix_is_one_of_its_own():
    pytest.importorskip("wandb")
    counts = np.arange(9).reshape(3, 3)
    rows = confusion_content(counts, ["crane", "robin", "crane"]).table.data
    assert len({(true, predicted) for true, predicted, _ in rows}) == 9
    assert {(true, predicted): count for true, predicted, count in rows}["crane (2)", "crane (0)"] == 6
