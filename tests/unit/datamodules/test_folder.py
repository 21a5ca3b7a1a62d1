from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from file_material import SETTINGS, write_digits

from datamodules.folder import FolderClassification, FolderRetrieval
from records.errors import UserError
from records.notices import RunWarning


def retrieval(root: Path, **settings: Any) -> FolderRetrieval:
    return FolderRetrieval(**{"root": root, **SETTINGS, **settings})


def classification(root: Path, **settings: Any) -> FolderClassification:
    return FolderClassification(**{"root": root, **SETTINGS, **settings})


def test_class_folders_are_split_by_seed(tmp_path: Path) -> None:
    files = write_digits(tmp_path, 10)
    data = retrieval(tmp_path)
    assert data.listing.names == tuple(sorted(files.names))
    assert data.class_names == ("0", "1", "2")
    assert data.sizes == {"train": 24, "query": 6, "database": 24}
    assert data.protocol_name == "folder-stratified-0.2"
    assert classification(tmp_path, split_seed=3).sizes == {"train": 24, "test": 6}
    assert retrieval(tmp_path, split_seed=3).fingerprint != data.fingerprint


def test_folders_of_parts_are_the_parts(tmp_path: Path) -> None:
    write_digits(tmp_path / "train", 4)
    write_digits(tmp_path / "val", 2)
    write_digits(tmp_path / "test", 3)
    data = classification(tmp_path)
    assert data.sizes == {"train": 12, "val": 6, "test": 9}
    assert data.protocol_name == "folder"
    assert retrieval(tmp_path).sizes == {"train": 12, "val_query": 6, "val_database": 12, "query": 9, "database": 12}
    write_digits(tmp_path / "gallery", 5)
    assert retrieval(tmp_path).sizes["database"] == 27
    assert retrieval(tmp_path, train_in_database=False).sizes["database"] == 15


def test_the_folders_may_lie_below_the_root(tmp_path: Path) -> None:
    write_digits(tmp_path / "pictures", 10)
    assert retrieval(tmp_path, image_dir="pictures").fingerprint == retrieval(tmp_path / "pictures").fingerprint


def test_folders_within_class_folders_belong_to_the_class(tmp_path: Path) -> None:
    files = write_digits(tmp_path, 10)
    (tmp_path / "1" / "more").mkdir()
    (tmp_path / files.names[12]).rename(tmp_path / "1" / "more" / "x.PNG")
    data = retrieval(tmp_path)
    assert data.data.source.labels.tolist() == files.labels
    assert "1/more/x.PNG" in data.listing.names


def test_strangers_are_counted_and_hidden_files_passed_over(tmp_path: Path) -> None:
    write_digits(tmp_path, 10)
    for name in ("notes.txt", "more.txt", "Thumbs", ".hidden"):
        (tmp_path / "0" / name).write_text("")
    with pytest.warns(RunWarning, match="no images by their name were left out: 2 x .txt, 1 x no suffix"):
        assert sum(retrieval(tmp_path).sizes.values()) == 54


def test_an_empty_class_is_counted(tmp_path: Path) -> None:
    write_digits(tmp_path, 10)
    (tmp_path / "zebra").mkdir()
    with pytest.warns(RunWarning, match="1 of 4 classes have no training image: zebra"):
        assert retrieval(tmp_path).sizes["train"] == 24


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        ([], r"there is no image in .*; it takes root/CLASS/IMAGE"),
        (["train/0", "test/0", "0"], r"folders of parts \(test, train\) beside others \(0\)"),
    ],
)
def test_folders_that_say_nothing_are_refused(tmp_path: Path, folders: list[str], match: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=match):
        retrieval(tmp_path).setup()


def test_parts_without_the_training_part_are_refused(tmp_path: Path) -> None:
    write_digits(tmp_path / "query", 2)
    write_digits(tmp_path / "database", 2)
    with pytest.raises(UserError, match="the part 'train' of folder has no image"):
        retrieval(tmp_path).setup()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root: there is no folder .*nowhere"):
        retrieval(tmp_path / "nowhere").setup()
