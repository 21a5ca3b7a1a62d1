from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from file_material import SETTINGS, DigitFiles, write_digits, write_lines

from datamodules.files.table_files import Columns, class_order, read_table
from datamodules.table import TableClassification, TableRetrieval
from records.errors import UserError
from records.notices import RunWarning

NAMES = ["zero", "one", "two"]
PARTS = ["train", "train", "query", "database", "val"]


@pytest.fixture
def files(tmp_path: Path) -> DigitFiles:
    return write_digits(tmp_path, 10)


def write_table(files: DigitFiles, header: str = "path,label,split", named: bool = True) -> Path:
    rows = [
        f"{name},{NAMES[label] if named else label},{PARTS[place % 5]}"
        for place, (name, label) in enumerate(zip(files.names, files.labels, strict=True))
    ]
    write_lines(files.root / "images.csv", [header, *rows])
    return files.root / "images.csv"


def retrieval(files: DigitFiles, **settings: Any) -> TableRetrieval:
    return TableRetrieval(**{"root": files.root, "file": files.root / "images.csv", **SETTINGS, **settings})


def classification(files: DigitFiles, **settings: Any) -> TableClassification:
    return TableClassification(**{"root": files.root, "file": files.root / "images.csv", **SETTINGS, **settings})


def test_without_a_split_column_a_stratified_fifth_queries_the_rest(files: DigitFiles) -> None:
    write_table(files)
    data = retrieval(files)
    assert data.sizes == {"train": 24, "query": 6, "database": 24}
    assert sorted(data.labels("query").tolist()) == [0, 0, 1, 1, 2, 2]
    assert data.class_names == ("one", "two", "zero")
    assert data.drawn_by_seed
    assert data.protocol_name == "table-stratified-0.2"
    assert retrieval(files, split_seed=1).fingerprint != data.fingerprint == retrieval(files, seed=7).fingerprint
    assert retrieval(files, test_fraction=0.5, val_fraction=0.2).sizes == {
        "train": 12, "val_query": 3, "val_database": 12, "query": 15, "database": 15
    }  # fmt: skip


def test_a_split_column_names_the_parts(files: DigitFiles) -> None:
    write_table(files)
    data = retrieval(files, split_column="split")
    assert data.sizes == {"train": 12, "val_query": 6, "val_database": 12, "query": 6, "database": 18}
    assert data.has_validation
    assert not data.drawn_by_seed
    apart = retrieval(files, split_column="split", train_in_database=False)
    assert apart.sizes["database"] == 6
    with pytest.raises(UserError, match=r"list a validation part.*set data\.val_fraction=0 data\.fold=null"):
        retrieval(files, split_column="split", val_fraction=0.1).setup()


def test_listed_images_that_no_part_uses_are_counted(files: DigitFiles) -> None:
    parts = ["train", "query", "test", "database", "train"]
    rows = [
        f"{name},{label},{parts[place % 5]}"
        for place, (name, label) in enumerate(zip(files.names, files.labels, strict=True))
    ]
    write_lines(files.root / "images.csv", ["path,label,split", *rows])
    with pytest.warns(RunWarning, match=r"^6 images listed as 'test' are in no part that is used \(train, query, data"):
        assert retrieval(files, split_column="split").sizes == {"train": 12, "query": 6, "database": 18}
    with pytest.warns(RunWarning) as seen:
        assert classification(files, split_column="split").sizes == {"train": 12, "test": 6}
    told = [str(one.message) for one in seen]
    assert [text.partition(" are in no part")[0] for text in told] == [
        "6 images listed as 'query'", "6 images listed as 'database'"
    ]  # fmt: skip


def test_one_file_under_two_spellings_is_one_image(files: DigitFiles) -> None:
    rows = [f"{name},{label},{'query' if place % 5 == 0 else 'train'}" for place, (name, label) in
            enumerate(zip(files.names, files.labels, strict=True))]  # fmt: skip
    again = [f"./{files.names[0]},{files.labels[0]},database"]
    write_lines(files.root / "images.csv", ["path,label,split", *rows, *again])
    with pytest.warns(RunWarning, match=r"1 of 6 images of the part 'query' are also in 'database'"):
        retrieval(files, split_column="split").setup()


def test_the_training_part_is_searched_where_no_database_is_listed(files: DigitFiles) -> None:
    rows = [f"{name},{label},{'Test' if place % 5 == 0 else 'TRAIN'}" for place, (name, label) in
            enumerate(zip(files.names, files.labels, strict=True))]  # fmt: skip
    write_lines(files.root / "images.csv", ["path,label,split", *rows])
    data = retrieval(files, split_column="split")
    assert data.sizes == {"train": 24, "query": 6, "database": 24}
    assert data.positions("train").tolist() == data.positions("database").tolist()


def test_the_same_table_serves_recognition(files: DigitFiles) -> None:
    write_table(files)
    assert classification(files).sizes == {"train": 24, "test": 6}
    data = classification(files, split_column="split")
    assert data.sizes == {"train": 12, "val": 6, "test": 6}
    (loader,) = data.test_dataloader()
    assert next(iter(loader))["label"].tolist() == data.labels("test").tolist()
    with pytest.raises(UserError, match="recognition takes one class"):
        classification(files, label_separator=";")


def test_classes_are_ordered_by_value_or_by_name() -> None:
    assert class_order({"10", "9", "-1"}) == ("-1", "9", "10")
    assert class_order({"10", "9", "a"}) == ("10", "9", "a")
    assert class_order({"10", "9", "--1"}) == ("--1", "10", "9")
    assert class_order({"10", "9", "-"}) == ("-", "10", "9")
    twice = [name for number in range(1, 10) for name in (f"0{number}", f"{number}")]
    assert class_order(set(twice)) == tuple(twice)


def test_numbers_name_classes_whatever_gaps_they_have(files: DigitFiles) -> None:
    rows = [f"{name},{label * 7}" for name, label in zip(files.names, files.labels, strict=True)]
    write_lines(files.root / "images.csv", ["path,label", *rows])
    data = retrieval(files)
    assert data.class_names == ("0", "7", "14")
    assert data.data.source.labels.tolist() == files.labels


def test_several_classes_by_separator_or_by_columns(files: DigitFiles) -> None:
    rows = [f"{name},{NAMES[label]};{NAMES[0]};" for name, label in zip(files.names, files.labels, strict=True)]
    write_lines(files.root / "images.csv", ["path,label", *rows])
    data = retrieval(files, label_separator=";", class_names=NAMES)
    expected = [[1.0, float(label == 1), float(label == 2)] for label in files.labels]
    assert data.multi_label
    assert data.data.source.labels.tolist() == expected
    hot = [f"{name},{','.join(str(int(value)) for value in row)}" for name, row in
           zip(files.names, expected, strict=True)]  # fmt: skip
    write_lines(files.root / "images.csv", ["path,zero,one,two", *hot])
    columns = retrieval(files, label_columns=NAMES)
    assert columns.class_names == tuple(NAMES)
    assert columns.data.source.labels.tolist() == expected
    with pytest.raises(UserError, match=r"data\.label_columns names the classes"):
        retrieval(files, label_columns=NAMES, class_names=NAMES)


def test_columns_and_delimiter_have_names_of_their_own(files: DigitFiles) -> None:
    path = write_table(files, "image id\tkind\tsplit")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b",", b"\t").replace(b"\n", b"\r\n"))
    data = retrieval(files, path_column="image id", label_column="kind", delimiter="\t")
    assert data.sizes["query"] == 6
    with pytest.raises(UserError, match=r"no column 'path'(?s:.*)Its columns are image id, kind, split"):
        retrieval(files, delimiter="\t").setup()
    with pytest.raises(UserError, match="there is no column 'kin'; did you mean 'kind'"):
        retrieval(files, path_column="image id", label_column="kin", delimiter="\t").setup()
    with pytest.raises(UserError, match=r"data\.delimiter is ', '"):
        retrieval(files, delimiter=", ").setup()


def test_quoted_fields_may_hold_the_delimiter(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.csv", ["path,label", '"a,b.jpg","x, y"', "c.jpg,z"])
    listing = read_table(tmp_path / "a.csv", Columns("path", "label"), ",", None)
    assert (listing.names, listing.class_names) == (("a,b.jpg", "c.jpg"), ("x, y", "z"))


def test_all_faulty_rows_are_counted_with_their_lines(files: DigitFiles) -> None:
    rows = ["a.png,zero,train", ",zero,train", "b.png,,train", "c.png,three,train", "d.png,one,exam", "e.png,one",
            "f.png,one,train,x"]  # fmt: skip
    write_lines(files.root / "images.csv", ["path,label,split", *rows])
    with pytest.raises(UserError) as caught:
        retrieval(files, split_column="split", class_names=NAMES).setup()
    text = str(caught.value)
    assert "6 fault" in text
    for part in (
        "images.csv:3: the column 'path' is empty",
        "images.csv:4: the column 'label' is empty",
        "images.csv:5: the class 'three' is not among data.class_names",
        "images.csv:6: 'exam' in 'split' is none of train, training, val",
        "images.csv:7: 2 columns, and 3 in the header",
        "images.csv:8: more than 3 columns",
    ):
        assert part in text


def test_labels_that_are_not_multi_hot_are_refused(files: DigitFiles) -> None:
    write_lines(files.root / "images.csv", ["path,a,b", "x.png,1,0", "y.png,2,0", "z.png,yes,1"])
    with pytest.raises(UserError, match=r"2 x labels not multi-hot(?s:.*)csv:3: the label '2' is neither 0 nor 1"):
        retrieval(files, label_columns=["a", "b"]).setup()


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["path,label"], "has a header and no row"),
        (["path,label", '"a.png,zero'], "not a table of columns between ','"),
        (["path,path,label", "a,b,c"], "the column 'path' is there twice"),
    ],
)
def test_tables_that_are_none_are_refused(files: DigitFiles, lines: list[str], match: str) -> None:
    write_lines(files.root / "images.csv", lines)
    with pytest.raises(UserError, match=match):
        retrieval(files).setup()


def test_a_missing_table_names_the_key(files: DigitFiles) -> None:
    with pytest.raises(UserError, match=r"data\.file: .*images\.csv cannot be read"):
        retrieval(files).setup()


def test_a_single_class_is_refused_and_an_empty_one_counted(files: DigitFiles) -> None:
    write_lines(files.root / "images.csv", ["path,label", *(f"{name},same" for name in files.names)])
    with pytest.raises(UserError, match=r"the data have 1 class \(same\)"):
        retrieval(files).setup()
    write_table(files)
    with pytest.warns(RunWarning, match="2 of 5 classes have no training image: four, three"):
        retrieval(files, class_names=["four", *NAMES, "three"]).setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retrieval(files).setup()


def test_the_share_must_be_one(files: DigitFiles) -> None:
    with pytest.raises(UserError, match=r"data\.test_fraction is 1\.0; it must lie in \(0, 1\)"):
        retrieval(files, test_fraction=1.0)
