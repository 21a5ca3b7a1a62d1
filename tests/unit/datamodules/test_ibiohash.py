"""iBioHash in the contest's own layout: what is read, what is left out, and parts that mimic query and gallery."""

import shutil

import pytest
import torch
from ibiohash_material import write_archive

from datamodules.files.ibiohash_archive import Look, left_out, look_at_all
from datamodules.ibiohash import IBioHash
from records.errors import UserError
from records.notices import RunWarning

SETTINGS = {"image_dir": "iBioHash_Train", "image_size": 16, "seed": 0, "batch_size": 8}


def silent(done, total):
    pass


def data_of(root, **settings):
    return IBioHash(**{"root": root, **SETTINGS, "val_fraction": 0.2, "test_fraction": 0.2, **settings})


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "bio", per_class=30, classes=3, queries=2, searched=10)


def test_every_class_is_held_out_in_shares_and_nothing_searched_was_trained_on(archive):
    data = data_of(archive.root)
    parts = {name: data.positions(name) for name in data.sizes}
    every = torch.cat(list(parts.values()))
    assert len(every.unique()) == len(every) == 90
    held, validated = len(parts["query"]) + len(parts["database"]), len(parts["val_query"]) + len(parts["val_database"])
    assert (held, validated) == (18, round(0.2 * 72))
    for name in parts:
        assert set(data.labels(name).tolist()) == {0, 1, 2}, name
    # a tenth of each class's held-out images, at least one
    assert len(parts["query"]) == len(parts["val_query"]) == 3
    assert data.val_splits == ("val_query", "val_database")
    assert data.test_splits == ("query", "database")


def test_the_split_is_drawn_by_its_seed_alone(archive):
    first, same, other = (data_of(archive.root, split_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_a_split_file_says_the_same(archive, tmp_path):
    first = data_of(archive.root, split_dir=tmp_path)
    first.setup()
    again = data_of(archive.root, split_file=first.split_path)
    for name in first.sizes:
        assert torch.equal(first.positions(name), again.positions(name))


def test_class_folders_are_read_without_a_table(archive):
    classes = archive.root / "iBioHash_Train"
    for name, label in archive.labelled.items():
        (classes / label).mkdir(exist_ok=True)
        (classes / name).rename(classes / label / name)
    with_table = data_of(archive.root)
    (archive.root / "train.csv").unlink()
    without = data_of(archive.root)
    assert sorted(with_table.listing.names) == sorted(without.listing.names)
    assert without.class_names == ("species 0", "species 1", "species 2")
    assert without.data.source.path(0).is_file()


def test_doubled_folders_and_single_ones_are_the_same_images(archive):
    folder, names = data_of(archive.root).unlabelled_images("query")
    assert folder == archive.root / "Query" / "Query"
    assert names == tuple(sorted(archive.query))
    for image in list(folder.iterdir()):
        image.rename(folder.parent / image.name)
    folder.rmdir()
    assert data_of(archive.root).unlabelled_images("query") == (archive.root / "Query", names)


def test_hidden_files_and_folders_are_no_images(archive):
    folder, names = data_of(archive.root).unlabelled_images("query")
    (folder / f"._{names[0]}").write_bytes(b"\x00\x05\x16\x07")
    assert data_of(archive.root).unlabelled_images("query") == (folder, names)
    classes = archive.root / "iBioHash_Train"
    for name, label in archive.labelled.items():
        (classes / label).mkdir(exist_ok=True)
        (classes / name).rename(classes / label / name)
        (classes / label / f"._{name}").touch()
    (classes / ".cache").mkdir()
    (archive.root / "train.csv").unlink()
    data = data_of(archive.root)
    assert data.class_names == ("species 0", "species 1", "species 2")
    assert len(data.listing.names) == 90


def spoil(archive):
    """Make of six labelled images: one cut, one missing, two copies of one class, two copies of different classes."""
    train = archive.root / "iBioHash_Train"
    names = sorted(archive.labelled)
    cut, missing, kept, copy, wrong, leaked = [name for name in names if archive.labelled[name] == "species 0"][:6]
    other = next(name for name in names if archive.labelled[name] == "species 1")
    (train / cut).write_bytes((train / cut).read_bytes()[:400])
    (train / missing).unlink()
    shutil.copyfile(train / kept, train / copy)
    shutil.copyfile(train / wrong, train / other)
    query = sorted(archive.query)[0]
    (archive.root / "Query" / "Query" / query).write_bytes(b"")
    gallery = sorted(archive.gallery)[0]
    shutil.copyfile(train / leaked, archive.root / "Gallery" / "Gallery" / gallery)
    return {"cut": cut, "missing": missing, "kept": kept, "copy": copy, "wrong": wrong, "other": other, "query": query}


def test_preparing_names_what_is_wrong_and_training_leaves_it_out(archive):
    names = spoil(archive)
    with pytest.warns(RunWarning, match="5 of 90 labelled images are left out"):
        found = data_of(archive.root).prepare_archive(silent)
    assert found.counts == {"labelled": 90, "query": 6, "gallery": 30}
    assert set(found.left_out) == {names[key] for key in ("cut", "missing", "copy", "wrong", "other")}
    assert found.left_out[names["missing"]] == "there is no such file"
    assert found.left_out[names["copy"]] == f"the same image as {names['kept']}"
    assert "different classes" in found.left_out[names["wrong"]]
    assert list(found.broken) == [f"Query/Query/{names['query']}"]
    assert found.copies == {"train and gallery": 1}
    assert (found.folder / "query.txt").read_text().splitlines() == sorted(archive.query)
    assert (found.folder / "gallery.txt").read_text().splitlines() == sorted(archive.gallery)
    data = data_of(archive.root)
    with pytest.warns(RunWarning, match="5 of 90 labelled images are left out"):
        data.setup()
    assert sum(data.sizes.values()) == 85
    (split,) = found.folder.glob("*.json")
    with pytest.warns(RunWarning, match="left out"):
        assert data_of(archive.root, split_file=split).fingerprint == data.fingerprint


def test_preparing_again_reads_only_what_has_changed(archive, monkeypatch):
    data_of(archive.root).prepare_archive(silent)
    seen = []
    monkeypatch.setattr("datamodules.files.ibiohash_archive.decode", lambda path: seen.append(path.name))
    changed = archive.root / "iBioHash_Train" / next(iter(archive.labelled))
    changed.write_bytes(changed.read_bytes() + b"\0")
    progress = []
    data_of(archive.root).prepare_archive(lambda done, total: progress.append((done, total)))
    assert seen == [changed.name]
    assert progress == [(125, 126), (126, 126)]


def test_images_may_lie_elsewhere(archive, tmp_path):
    (archive.root / "iBioHash_Train").rename(tmp_path / "elsewhere")
    settings = {"image_dir": tmp_path / "elsewhere"}
    data_of(archive.root, **settings).prepare_archive(silent)
    counts = []
    found = data_of(archive.root, **settings).prepare_archive(lambda done, total: counts.append(done))
    assert counts == [126], "every file was noted"
    assert found.sizes["train"] + found.sizes["database"] < found.counts["labelled"] == 90


def test_an_interrupted_look_keeps_what_was_seen(archive, monkeypatch):
    paths = sorted((archive.root / "iBioHash_Train").iterdir())
    record = archive.root / "scan.csv"
    monkeypatch.setattr("datamodules.files.ibiohash_archive.SAVED_EVERY", 20)

    def stop_at(done, total):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_at_all(paths, archive.root, record, stop_at)
    with record.open("a") as file:
        file.write("iBioHash_Train/half a li")
    counts = []
    looks = look_at_all(paths, archive.root, record, lambda done, total: counts.append(done))
    assert counts[0] == 40
    assert set(looks) == set(paths)
    assert len(record.read_text().splitlines()) == 91


@pytest.mark.parametrize("how", ["link", "move"])
def test_class_folders_are_made(archive, how):
    names = spoil(archive)
    with pytest.warns(RunWarning):
        found = data_of(archive.root).prepare_archive(silent, how)
    made = found.class_folders
    assert made is not None
    assert made.made == 89
    name, label = next((name, label) for name, label in archive.labelled.items() if name not in names.values())
    assert (made.folder / label / name).read_bytes().startswith(b"\xff\xd8")
    data = data_of(archive.root)
    with pytest.warns(RunWarning, match="5 of 90"):
        data.setup()
    assert sum(data.sizes.values()) == 85
    assert data.data.source.path(0).is_file()
    with pytest.warns(RunWarning):
        again = data_of(archive.root).prepare_archive(silent, how).class_folders
    assert (again.made, again.found) == (0, 89)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("image_id", "id"), "there is no column 'image_id'"),
        (lambda text: text + "../../elsewhere.jpg,species 0\n", "1 x path outside the folder"),
        (lambda text: text + text.splitlines()[1].replace("species", "specimen") + "\n", "1 x contradicting labels"),
    ],
)
def test_a_faulty_table_is_refused(archive, change, expected):
    table = archive.root / "train.csv"
    table.write_text(change(table.read_text()))
    with pytest.raises(UserError, match=expected):
        data_of(archive.root).setup()


def test_marks_and_line_ends_of_other_systems_are_read(archive):
    plain = data_of(archive.root).fingerprint
    table = archive.root / "train.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert data_of(archive.root).fingerprint == plain


@pytest.mark.parametrize(
    ("folder", "expected"), [("Query", "data.query_dir: there is no folder"), ("train", "neither a table")]
)
def test_what_is_not_there_is_named(archive, folder, expected):
    if folder == "train":
        shutil.rmtree(archive.root / "iBioHash_Train")
        (archive.root / "train.csv").unlink()
    else:
        shutil.rmtree(archive.root / folder)
    with pytest.raises(UserError, match=expected):
        data_of(archive.root).prepare_archive(silent)


def test_settings_out_of_range_are_refused(archive):
    with pytest.raises(UserError, match=r"data\.query_share is 1"):
        data_of(archive.root, query_share=1)
    with pytest.raises(UserError, match="none is left to query for another; take larger shares"):
        data_of(archive.root, test_fraction=0.03).setup()
    with pytest.raises(UserError, match="class_folders is 'copy'"):
        data_of(archive.root).prepare_archive(silent, "copy")


def test_of_images_that_are_the_same_the_first_stays_unless_classes_differ():
    same, other = Look(1, 1, "a", ""), Look(1, 1, "b", "")
    reasons = left_out(["1", "2", "3", "4"], ["x", "x", "y", "z"], [same, same, other, other])
    assert list(reasons) == ["2", "3", "4"]
    gone = Look(0, 0, "", "gone")
    assert left_out(["1", "2"], ["x", "y"], [gone, gone]) == {"1": "gone", "2": "gone"}
    assert left_out(["1"], ["x"], [same]) == {}
