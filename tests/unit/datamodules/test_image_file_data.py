from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from file_material import SETTINGS, DigitFiles, write_digits, write_lines

from datamodules.folder import FolderClassification
from datamodules.images.image_files import content_digests
from datamodules.images.source import Batch
from datamodules.retrieval_lists import RetrievalLists
from datamodules.table import TableClassification
from records.errors import UserError
from records.notices import RunWarning

AUGMENT = {"crop": "resized", "horizontal_flip": True}
TRAIN, QUERY, DATABASE = [0, 1, 5, 6, 10], [4, 9, 14], [0, 1, 2, 5, 6, 7, 10]


@pytest.fixture
def files(tmp_path: Path) -> DigitFiles:
    return write_digits(tmp_path, 5)


def lists(files: DigitFiles, **settings: Any) -> RetrievalLists:
    return RetrievalLists(**{"root": files.root, **SETTINGS, **settings})


def contents(loader: Iterable[Batch]) -> list[tuple[bytes, list[int], list[int]]]:
    return [(b["image"].numpy().tobytes(), b["label"].tolist(), b["index"].tolist()) for b in loader]


def test_queries_in_the_database_are_reported(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, [*DATABASE, 4, 9])
    with pytest.warns(
        RunWarning, match=r"2 of 3 images of the part 'query' are also in 'database' \(by path\)"
    ) as seen:
        assert lists(files).sizes == {"train": 5, "query": 3, "database": 9}
    assert f"the first: {files.names[4]}, {files.names[9]}. data.duplicates=exclude" in str(seen[0].message)


def test_queries_are_taken_out_of_the_database_and_the_training_part_on_request(files: DigitFiles) -> None:
    files.write_lists([*TRAIN, 14], QUERY, [*DATABASE, 4, 9])
    data = lists(files, duplicates="exclude")
    with pytest.warns(RunWarning) as caught:
        data.setup()
    assert data.sizes == {"train": 5, "query": 3, "database": 7}
    assert [data.listing.names[place] for place in data.positions("database")] == [files.names[i] for i in DATABASE]
    texts = [str(one.message) for one in caught]
    assert any("2 images were taken out of 'database'" in text for text in texts)
    assert any("1 images were taken out of 'train'" in text for text in texts)


def test_queries_in_the_database_stop_the_run_on_request(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, [*DATABASE, 4])
    with pytest.raises(UserError, match=r"1 of 3 images of the part 'query'.*data\.duplicates=exclude"):
        lists(files, duplicates="error").setup()


def test_a_database_of_nothing_but_queries_cannot_be_excluded(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, QUERY)
    with pytest.raises(UserError, match="would leave 'database' empty"):
        lists(files, duplicates="exclude").setup()


def test_copies_under_another_name_are_found_by_content(files: DigitFiles) -> None:
    shutil.copy(files.root / files.names[4], files.root / "0" / "copy.png")
    files.write_lists(TRAIN, QUERY, DATABASE)
    write_lines(files.root / "database.txt", [*files.rows(DATABASE), "0/copy.png 1 0 0"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lists(files).sizes["database"] == 8
    data = lists(files, duplicates="exclude", duplicates_by="content")
    with pytest.warns(RunWarning, match=r"1 of 3 .* \(by content\)"):
        assert data.sizes == {"train": 5, "query": 3, "database": 7}
    assert "0/copy.png" not in {data.listing.names[place] for place in data.positions("database")}


def test_test_images_that_are_trained_on_are_found_in_recognition_too(tmp_path: Path) -> None:
    train = write_digits(tmp_path / "train", 4)
    write_digits(tmp_path / "test", 2)
    settings: dict[str, Any] = {"root": tmp_path, **SETTINGS, "duplicates_by": "content"}
    with pytest.warns(RunWarning, match="6 of 6 images of the part 'test' are also in 'train'"):
        assert FolderClassification(**settings).sizes == {"train": len(train.names), "test": 6}
    with pytest.warns(RunWarning, match="6 images were taken out of 'train'"):
        assert FolderClassification(**settings, duplicates="exclude").sizes == {"train": 6, "test": 6}


def both_in_train_and_validation(root: Path, **settings: Any) -> TableClassification:
    files = write_digits(root, 6)
    parts = ["train", "train", "train", "train", "val", "test"]
    rows = [f"{name},{label},{parts[place % 6]}" for place, (name, label) in
            enumerate(zip(files.names, files.labels, strict=True))]  # fmt: skip
    again = [f"{files.names[4]},0,train", f"./{files.names[10]},1,train"]
    write_lines(root / "images.csv", ["path,label,split", *rows, *again])
    return TableClassification(root=root, file=root / "images.csv", split_column="split", **SETTINGS, **settings)


def test_listed_validation_images_that_are_trained_on_are_found(tmp_path: Path) -> None:
    found = r"2 of 3 images of the part 'validation' are also in 'train' \(by path\).*the first: 0/04.png, 1/04.png"
    with pytest.warns(RunWarning, match=found):
        assert both_in_train_and_validation(tmp_path / "a").sizes == {"train": 14, "val": 3, "test": 3}
    with pytest.raises(UserError, match=found):
        both_in_train_and_validation(tmp_path / "b", duplicates="error").setup()
    data = both_in_train_and_validation(tmp_path / "c", duplicates="exclude")
    with pytest.warns(RunWarning, match="2 images were taken out of 'train'"):
        assert data.sizes == {"train": 12, "val": 3, "test": 3}
    assert {data.listing.names[place] for place in data.positions("val")} == {"0/04.png", "1/04.png", "2/04.png"}


@pytest.mark.parametrize("held_out", [{"val_fraction": 0.25}, {"folds": 4, "fold": 1}])
def test_copies_on_both_sides_of_a_drawn_validation_part_are_found(tmp_path: Path, held_out: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"root": tmp_path, **SETTINGS, "duplicates_by": "content", "test_fraction": 0.25}
    files = write_digits(tmp_path, 8)
    for name in files.names:
        shutil.copy(tmp_path / name, tmp_path / name.replace(".png", "-copy.png"))

    def content(data: FolderClassification, part: str) -> set[bytes]:
        return {(tmp_path / data.listing.names[place]).read_bytes() for place in data.positions(part)}

    reported = FolderClassification(**settings, **held_out)
    with pytest.warns(RunWarning, match=r"images of the part 'validation' are also in 'train' \(by content\)"):
        reported.setup()
    assert content(reported, "val") & content(reported, "train")
    data = FolderClassification(**settings, **held_out, duplicates="exclude")
    with pytest.warns(RunWarning, match=r"of the part 'validation' .* images were taken out of 'train'"):
        data.setup()
    assert content(data, "val").isdisjoint(content(data, "train"))
    assert len(content(data, "val") | content(data, "train") | content(data, "test")) == len(files.names)


def test_files_are_compared_once_and_the_parts_of_a_split_file_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_digits(tmp_path / "images", 8)
    read: list[int] = []

    def counted(paths: Iterable[Path]) -> list[bytes]:
        listed = list(paths)
        read.append(len(listed))
        return content_digests(listed)

    monkeypatch.setattr("datamodules.files.image_file_data.content_digests", counted)
    settings: dict[str, Any] = {"root": files.root, **SETTINGS, "duplicates_by": "content", "val_fraction": 0.25}
    data = FolderClassification(**settings, split_dir=tmp_path)
    data.setup()
    assert read == [24]
    again = FolderClassification(**settings, split_file=data.split_path)
    assert (again.fingerprint, read) == (data.fingerprint, [24])


def test_workers_change_no_pixel(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    alone, shared = (lists(files, augment=AUGMENT, num_workers=workers, batch_size=2) for workers in (0, 2))
    assert contents(alone.train_dataloader()) == contents(shared.train_dataloader())
    for first, second in zip(alone.test_dataloader(), shared.test_dataloader(), strict=True):
        assert contents(first) == contents(second)


def test_augmented_images_belong_to_seed_epoch_and_index(files: DigitFiles) -> None:
    files.write_lists(DATABASE, QUERY, DATABASE)

    def images(batch_size: int, seed: int = 0) -> dict[int, torch.Tensor]:
        data = lists(files, augment=AUGMENT, batch_size=batch_size, seed=seed)
        return {
            index: image
            for batch in data.train_dataloader()
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
        }

    whole = images(7)
    assert all(torch.equal(image, whole[index]) for index, image in images(3).items())
    assert not all(torch.equal(image, whole[index]) for index, image in images(7, seed=1).items())


def test_the_image_size_is_that_of_the_network(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    data = lists(files, image_size=40, resize=44)
    assert next(iter(data.test_dataloader()[1]))["image"].shape == (7, 3, 40, 40)
    bicubic = lists(files, image_size=40, resize=44, resampling="bicubic")
    where = torch.arange(2)
    assert not torch.equal(bicubic.data.source.read(where), data.data.source.read(where))
    assert bicubic.data.source.read(where).shape == (2, 3, 40, 40)
    with pytest.raises(UserError, match=r"data\.resampling"):
        lists(files, image_size=40, resampling="nearest")
    with pytest.raises(UserError, match=r"data\.resize is 30"):
        lists(files, image_size=40, resize=30).setup()


def test_damaged_images_are_found_before_the_run_or_dropped(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    path = files.root / files.names[2]
    path.write_bytes(path.read_bytes()[:60])
    lists(files, scan="header").setup()
    with pytest.raises(UserError, match=r"1 x unreadable image(?s:.*)database\.txt:3: .*02\.png"):
        lists(files, scan="pixels").setup()
    with pytest.warns(RunWarning, match="1 of 10 images cannot be read"):
        assert lists(files, scan="pixels", unreadable="drop").sizes["database"] == 6
    for name in files.names:
        (files.root / name).unlink()
    with pytest.raises(UserError, match=r"no image is left of the 10 listed"), pytest.warns(RunWarning):
        lists(files, unreadable="drop").setup()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"scan": "deep"}, r"data\.scan is 'deep'; the choices are exists, header, pixels"),
        ({"unreadable": "skip"}, r"data\.unreadable is 'skip'; the choices are error, drop"),
        ({"duplicates": "keep"}, r"data\.duplicates is 'keep'; the choices are report, exclude, error"),
        ({"duplicates_by": "name"}, r"data\.duplicates_by is 'name'; the choices are path, content"),
    ],
)
def test_choices_are_checked_by_key(files: DigitFiles, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        lists(files, **settings)
