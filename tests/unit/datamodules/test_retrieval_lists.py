from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from file_material import SETTINGS, DigitFiles, write_digits, write_lines

from datamodules.files.retrieval_list_files import label_width, parse_list, write_list
from datamodules.retrieval_lists import RetrievalLists
from records.errors import UserError
from records.notices import RunWarning

TRAIN, QUERY, DATABASE = [0, 1, 5, 6, 10, 11], [4, 9, 14], [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]


@pytest.fixture
def files(tmp_path: Path) -> DigitFiles:
    return write_digits(tmp_path / "dätä set", 5)


def lists(root: Path, **settings: Any) -> RetrievalLists:
    return RetrievalLists(**{"root": root, **SETTINGS, **settings})


def names_of(data: RetrievalLists, split: str) -> list[str]:
    return [data.listing.names[place] for place in data.positions(split).tolist()]


def test_lists_are_read_in_their_order_with_shared_images_once(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    data = lists(files.root)
    assert data.sizes == {"train": 6, "query": 3, "database": 12}
    assert names_of(data, "query") == [files.names[place] for place in QUERY]
    assert names_of(data, "database") == [files.names[place] for place in DATABASE]
    assert len(data.data.source) == 15
    assert not data.multi_label
    assert data.labels("query").tolist() == [0, 1, 2]
    assert data.class_names == ("0", "1", "2")
    assert not data.drawn_by_seed
    batch = next(iter(data.test_dataloader()[0]))
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["index"].tolist() == [0, 1, 2]
    assert data.pictures("database", torch.tensor([3])).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_and_line_ends_change_nothing(files: DigitFiles, end: str, mark: bytes) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    expected = lists(files.root).fingerprint
    files.write_lists(TRAIN, QUERY, DATABASE, end)
    for path in files.root.glob("*.txt"):
        path.write_bytes(mark + path.read_bytes())
    assert lists(files.root).fingerprint == expected


def test_what_is_written_is_read_back(files: DigitFiles, tmp_path: Path) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    data = lists(files.root, lists_dir=tmp_path / "out")
    data.setup()
    again = lists(tmp_path / "out", image_dir=files.root)
    assert again.fingerprint == data.fingerprint
    assert (tmp_path / "out/test.txt").read_text() == (files.root / "test.txt").read_text()
    with pytest.raises(UserError, match="'a 1' cannot be written"):
        write_list(tmp_path / "x.txt", ["a 1"], torch.ones(1, 2))


def test_several_labels_stay_multi_hot(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    write_lines(files.root / "test.txt", [f"{files.names[4]} 1 0 1", f"{files.names[9]} 0 0 0"])
    data = lists(files.root)
    with pytest.warns(RunWarning, match="images without any class: 1 of 2 in query"):
        data.setup()
    assert data.multi_label
    assert data.labels("query").tolist() == [[1, 0, 1], [0, 0, 0]]
    assert data.class_counts.tolist() == [2, 2, 2]
    with pytest.raises(UserError, match=r"2 x not one class.*(?s:.*)test\.txt:1: 0/04\.png has 2 classes, not one"):
        lists(files.root, labels="single").setup()


def test_a_path_may_hold_blanks(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", ["my picture 5 .jpg 0 1", "  b c.jpg\t1  0 "])
    entries, faults, blank = parse_list(tmp_path / "a.txt", "train", 2)
    assert [(entry.name, entry.classes) for entry in entries] == [("my picture 5 .jpg", (1,)), ("b c.jpg", (0,))]
    assert (faults, blank) == ([], 0)


@pytest.mark.parametrize(("line", "width"), [("a.jpg 0 1 1", 3), ("a b.jpg 0", 1), ("a.jpg", 0), ("1 1", 1)])
def test_the_width_of_a_line_is_the_numbers_at_its_end(line: str, width: int) -> None:
    assert label_width(line) == width


def test_all_faults_are_counted_at_once_with_file_and_line(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    write_lines(files.root / "test.txt", ["a.png 0 1", "b.png 1 0 0", "c.png", "d.png 0 0 2", "e.png 0 0 -1"])
    with (files.root / "database.txt").open("a") as file:
        file.write("f.png 0 0 1 0\n")
    with pytest.raises(UserError) as caught:
        lists(files.root).setup()
    text = str(caught.value)
    assert "5 fault(s) (2 x wrong number of labels, 2 x labels not multi-hot, 1 x no labels)" in text
    for part in (
        "test.txt:1: 2 labels, and 3 elsewhere",
        "test.txt:3: 'c.png' holds a path without labels after it",
        "test.txt:4: the label 2 is neither 0 nor 1",
        "test.txt:5: the label -1 is neither 0 nor 1",
        "database.txt:13: 4 labels, and 3 elsewhere",
    ):
        assert part in text


def test_only_the_first_faults_are_shown_and_all_counted(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    write_lines(files.root / "test.txt", ["a.png 0 1"] * 1234)
    with pytest.raises(UserError, match=r"1,234 fault(?s:.*)and 1,224 more"):
        lists(files.root).setup()


def test_class_numbers_are_sent_to_the_table(files: DigitFiles) -> None:
    for name in ("train", "test", "database"):
        write_lines(files.root / f"{name}.txt", [f"{files.names[0]} 7"])
    with pytest.raises(UserError, match="data=table"):
        lists(files.root).setup()


def test_missing_images_are_named_by_line_or_dropped_and_counted(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    (files.root / files.names[2]).unlink()
    (files.root / files.names[4]).unlink()
    with pytest.raises(
        UserError, match=r"2 fault\(s\) \(2 x unreadable image\)(?s:.*)test\.txt:1: .*there is no such file"
    ):
        lists(files.root).setup()
    data = lists(files.root, unreadable="drop")
    with pytest.warns(RunWarning, match=r"2 of 15 images cannot be read and are left out(?s:.*)there is no such file"):
        data.setup()
    assert data.sizes == {"train": 6, "query": 2, "database": 11}
    assert names_of(data, "query") == [files.names[9], files.names[14]]
    assert data.labels("query").tolist() == [1, 2]


def test_a_part_without_images_is_refused(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    for place in QUERY:
        (files.root / files.names[place]).unlink()
    with pytest.warns(RunWarning), pytest.raises(UserError, match="the part 'query' of lists has no image"):
        lists(files.root, unreadable="drop").setup()
    write_lines(files.root / "test.txt", ["", " "])
    with pytest.raises(UserError, match=r"test\.txt is empty"):
        lists(files.root).setup()


def test_blank_lines_within_are_counted_and_at_the_end_passed_over(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    with (files.root / "test.txt").open("a") as file:
        file.write("\n\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = lists(files.root).fingerprint
    write_lines(files.root / "test.txt", [files.rows(QUERY)[0], "", " ", *files.rows(QUERY)[1:]])
    with pytest.warns(RunWarning, match="2 blank lines"):
        assert lists(files.root).fingerprint == expected


def test_repeated_and_contradicting_lines(files: DigitFiles) -> None:
    files.write_lists(TRAIN, [4, 4, 9], DATABASE)
    with pytest.warns(RunWarning, match="1 of the 3 lines of the part 'query' repeat an image"):
        assert lists(files.root).sizes["query"] == 2
    files.write_lists(TRAIN, QUERY, DATABASE)
    with (files.root / "database.txt").open("a") as file:
        file.write(f"{files.names[0]} 0 1 0\n")
    with pytest.raises(UserError, match=r"database\.txt:13: 0/00\.png has other labels in train\.txt:1"):
        lists(files.root).setup()


def test_files_that_cannot_be_read_are_named(files: DigitFiles) -> None:
    with pytest.raises(UserError, match=r"train\.txt cannot be read"):
        lists(files.root).setup()
    files.write_lists(TRAIN, QUERY, DATABASE)
    (files.root / "train.txt").write_bytes(b"a.png 1 0\nb\xe4.png 0 1\n")
    with pytest.raises(UserError, match=r"train\.txt:2: byte 11 is not UTF-8"):
        lists(files.root).setup()


def test_names_of_lists_and_classes_can_be_given(files: DigitFiles, tmp_path: Path) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    (files.root / "test.txt").rename(files.root / "queries.txt")
    write_lines(tmp_path / "classes.txt", ["zero", "one", "two", ""])
    data = lists(files.root, lists={"query": "queries.txt"}, class_names=str(tmp_path / "classes.txt"))
    assert data.class_names == ("zero", "one", "two")
    with pytest.raises(UserError, match=r"\d+ x wrong number of labels"):
        lists(files.root, lists={"query": "queries.txt"}, class_names=["a", "b"]).setup()
    with pytest.raises(UserError, match=r"data\.class_names holds 'a' more than once"):
        lists(files.root, class_names=["a", "a"]).setup()
    with pytest.raises(UserError, match=r"data\.lists\.gallery is unknown; the choices are train, query, database"):
        lists(files.root, lists={"gallery": "x.txt"})
    with pytest.raises(UserError, match=r"data\.labels is 'hot'; the choices are auto, single, multi"):
        lists(files.root, labels="hot")


def test_sizes_are_held_against_the_protocol_s(files: DigitFiles) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    wanted = {"train": 6, "query": 5, "database": None, "classes": 4}
    with pytest.warns(RunWarning) as caught:
        lists(files.root, protocol="mine", expected_sizes=wanted).setup()
    (text,) = [str(one.message) for one in caught]
    assert "differ from protocol mine (query: 5 expected, 3 found; classes: 4 expected, 3 found)" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lists(files.root, val_fraction=0.5, expected_sizes={"train": 6, "query": 3, "database": 12}).setup()


def test_the_fingerprint_tells_other_images_with_the_same_labels_apart(files: DigitFiles, tmp_path: Path) -> None:
    files.write_lists(TRAIN, QUERY, DATABASE)
    written = lists(files.root, split_dir=tmp_path)
    written.setup()
    assert lists(files.root, split_file=written.split_path).fingerprint == written.fingerprint
    files.write_lists([1, 0, *TRAIN[2:]], QUERY, DATABASE)
    with pytest.raises(UserError, match="made for other data"):
        lists(files.root, split_file=written.split_path).setup()
