"""labels.json: what a run knows of its classes is read back, and damage is named."""

import pytest

from records.errors import UserError
from records.labels_file import KnownLabels, read_labels, write_labels
from records.run_directory import RunDirectory


def test_labels_are_read_back(tmp_path):
    labels = KnownLabels(("Katze ä", "b"), (3, 0), True, {"train": 3})
    assert read_labels(RunDirectory(tmp_path)) is None
    write_labels(RunDirectory(tmp_path), labels)
    assert read_labels(RunDirectory(tmp_path)) == labels
    assert labels.num_classes == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"class_names": ["a"], "class_counts": ["x"]}'])
def test_damage_is_named(content, tmp_path):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UserError, match=r"labels\.json is damaged"):
        read_labels(RunDirectory(tmp_path))
