"""What a trained run is used for: predict, encode, search, with good images and bad ones."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits

import run as door
from callbacks import encoding_writer
from callbacks.checkpoint_io import AtomicCheckpointIO
from launch.compose import compose_config
from modes import encode, train
from modes.image_codes import encode_images
from records.atomic_file import write_text
from records.canvas import Picture
from records.errors import UserError
from retrieval.codes import unpack

BITS = 12
SHORT = ["trainer=cpu", "trainer.max_epochs=6", "trainer.limit_train_batches=6", f"task.bits={BITS}", "model.width=8"]
QUIET = ["callbacks.progress=null", "data.num_workers=0", "data.batch_size=16", "data.val_fraction=0"]


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Leave the drawing to tests/unit/records/test_image_figures.py: it takes longer than the search."""
    monkeypatch.setattr(Picture, "save", lambda picture, path: write_text(path, ""))


def trained(folder, *overrides):
    config = compose_config([*SHORT, *QUIET, *overrides, f"paths.run_dir={folder}"])
    assert train.run(config, list(overrides)) == 0
    return folder


def save_digit(number, path):
    grey = np.rint(np.kron(load_digits().images[number], np.ones((4, 4))) * (255 / 16)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "my photos"
    for number, label in enumerate(load_digits().target[:100]):
        save_digit(number, folder / f"class {label}" / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory, photos):
    place = tmp_path_factory.mktemp("runs") / "folder"
    return trained(place, "task=greedyhash", "data=folder", f'data.root="{photos}"', "data.image_size=16")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "digits", "task=greedyhash", "data.image_size=16")


@pytest.fixture
def run(folder_run, tmp_path):
    """A copy of the run, which a test may spoil."""
    return shutil.copytree(folder_run, tmp_path / "run")


def use(mode, place, *overrides):
    return door.main([f"mode={mode}", f"run={place}", *overrides])


def latest(place, folder):
    return sorted((place / folder).iterdir())[-1]


def neighbours(place):
    with (latest(place, "searches") / "neighbours.csv").open() as file:
        return [(int(row["distance"]), row["image"], row["class"]) for row in csv.DictReader(file)]


def by_hand(folder, name):
    """Return (distance, name) of all images of a folder of codes, nearest to one of them first, ties in their order."""
    names = (folder / "names.txt").read_text().splitlines()
    bits = unpack(np.load(folder / "codes.npy"), BITS)
    distances = (bits != bits[names.index(name)]).sum(1)
    return sorted(zip(distances.tolist(), range(len(names)), names, strict=True))


def test_a_folder_becomes_codes_and_these_are_searched(run, photos, capsys):
    assert use("encode", run, f"images={photos}") == 0
    codes = run / "codes" / "my_photos"
    assert len((codes / "names.txt").read_text().splitlines()) == 100
    assert json.loads((codes / "result.json").read_text())["status"] == "completed"
    image = photos / "class 3" / "003.png"
    assert use("search", run, "database=my_photos", f"image={image}", "k=9") == 0
    expected = [(distance, name, "") for distance, _, name in by_hand(codes, "class 3/003.png")[:9]]
    assert neighbours(run) == expected
    assert expected[0][0] == 0
    assert len({distance for distance, _, _ in by_hand(codes, "class 3/003.png")}) > 3
    printed = capsys.readouterr().out
    assert "nearest to 003.png among 100 images" in printed
    assert (latest(run, "searches") / "gallery.png").is_file()
    for kind in ("ivf", "hnsw"):
        settings = [f"faiss.kind={kind}", "faiss.lists=2", "faiss.probes=2"]
        assert use("search", run, "database=my_photos", f"image={image}", "k=9", *settings) == 0
        assert [row[0] for row in neighbours(run)] == [row[0] for row in expected]
        assert f"100 images ({kind})" in capsys.readouterr().out
    assert use("search", run, "database=my_photos", f"image={image}", "k=9") == 0
    assert "is kept in" not in capsys.readouterr().out


def test_images_come_and_go(run, photos, tmp_path, capsys):
    use("encode", run, f"images={photos}", "name=mine")
    save_digit(150, tmp_path / "new" / "a.png")
    save_digit(3, tmp_path / "new" / "b.png")
    (tmp_path / "new" / "c.png").write_text("no image")
    assert use("search", run, "database=mine", f"add={tmp_path / 'new'}", "remove=class 3") == 0
    assert list((run / "codes").glob("adding*")) == []
    removed = len(list((photos / "class 3").iterdir()))
    assert use("search", run, "database=mine", f"image={photos}/class 3/003.png", "k=100") == 0
    found = neighbours(run)
    assert len(found) == 100 - removed + 2
    assert not any(name.startswith("class 3/") for _, name, _ in found)
    assert (0, str(tmp_path / "new" / "b.png")) in [row[:2] for row in found]
    capsys.readouterr()
    assert use("search", run, "database=mine", f"add={tmp_path / 'new' / 'a.png'}") == 0
    assert "in the index already" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "gone.txt").write_text(f"{tmp_path}/new/a.png\n")
    assert use("search", run, "database=mine", f"remove={tmp_path / 'gone.txt'}", "image_dir=/") == 0
    assert use("search", run, "database=mine", "remove=class 4/04.png") == 1
    assert "did you mean class 4/" in capsys.readouterr().err


def test_an_interrupted_encoding_loses_one_block(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encode, "encode_images", partial(encode_images, block_size=30))
    write, written = encoding_writer.write_block, []

    def stop_at_the_third(folder, number, block):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        write(folder, number, block)

    monkeypatch.setattr(encoding_writer, "write_block", stop_at_the_third)
    assert use("encode", run, f"images={photos}", "name=mine") == 130
    printed = capsys.readouterr().err
    assert "are kept" in printed
    assert "name=mine" in printed
    assert use("search", run, "database=mine", f"image={photos}/class 3/003.png") == 1
    assert "not all encoded yet" in capsys.readouterr().err
    monkeypatch.setattr(encoding_writer, "write_block", lambda *block: (written.append(block[1]), write(*block)))
    assert use("encode", run, f"images={photos}", "name=mine") == 0
    assert written == [0, 1, 2, 3]
    assert len(np.load(run / "codes" / "mine" / "codes.npy")) == 100
    (tmp_path / "few.txt").write_text("class 3/003.png\n")
    assert use("encode", run, f"images={tmp_path / 'few.txt'}", f"image_dir={photos}", "name=mine") == 1
    assert "Remove that folder, or name another one" in capsys.readouterr().err


def test_images_to_add_that_are_all_broken_stand_in_nobody_s_way(run, photos, tmp_path, capsys):
    use("encode", run, f"images={photos / 'class 1'}", "name=mine")
    (tmp_path / "a.png").write_text("no image")
    assert use("search", run, "database=mine", f"add={tmp_path / 'a.png'}") == 1
    assert "none of the 1 images to add can be read" in capsys.readouterr().err
    assert use("search", run, "database=mine", f"add={photos / 'class 2'}") == 0
    assert use("search", run, "database=mine", f"image={photos}/class 2/002.png", "k=1") == 0
    assert neighbours(run)[0][0] == 0


def test_bad_images_are_counted_and_odd_ones_are_read(run, tmp_path, capsys):
    folder = tmp_path / "odd"
    save_digit(7, folder / "good.png")
    grey = Image.open(folder / "good.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    grey.convert("P").save(folder / "palette.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    grey.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)
    whole = folder / "cmyk.jpg"
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "empty.png").touch()
    assert use("encode", run, f"images={folder}") == 0
    codes = run / "codes" / "odd"
    names = (codes / "names.txt").read_text().splitlines()
    assert names == ["cmyk.jpg", "deep.png", "good.png", "palette.png", "turned.png"]
    values = dict(zip(names, np.load(codes / "values.npy"), strict=True))
    for name in ("deep.png", "palette.png", "turned.png"):
        np.testing.assert_allclose(values[name], values["good.png"], atol=1e-5)
    with (codes / "unreadable.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["empty.png", "truncated.jpg"]
    (warning,) = json.loads((codes / "result.json").read_text())["warnings"]
    assert warning.startswith("2 of 7 images cannot be read")
    for name in ("truncated.jpg", "none.jpg"):
        capsys.readouterr()
        assert use("predict", run, f"image={folder / name}") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"image={folder / name}: ")
        assert "Traceback" not in error


def test_a_table_is_encoded_and_written_in_the_contest_s_format(run, photos, tmp_path):
    table = tmp_path / "gallery.csv"
    table.write_bytes(b"\xef\xbb\xbfimage_id,label\r\n000.png,0\r\n010.png,0\r\n")
    overrides = [f"images={table}", f"image_dir={photos / 'class 0'}", "csv=submit_gallery.csv", "features=true"]
    assert use("encode", run, *overrides) == 0
    codes = run / "codes" / "gallery"
    bits = np.load(codes / "values.npy") > 0
    digits = ["".join(str(int(bit)) for bit in row) for row in bits]
    rows = [f"{name},'{code}'" for name, code in zip(("000.png", "010.png"), digits, strict=True)]
    assert (codes / "submit_gallery.csv").read_text() == "\n".join(["image_id,hashcode", *rows]) + "\n"
    assert len(np.load(codes / "features.npy")) == 2


def test_views_of_the_database_are_those_of_the_query(run, photos):
    overrides = [f"images={photos / 'class 5'}", "name=flipped", "flip=true", "zooms=[1.0,1.3]"]
    assert use("encode", run, *overrides) == 0
    for path in sorted((photos / "class 5").iterdir())[:2]:
        assert use("search", run, "database=flipped", f"image={path}", "k=1") == 0
        assert neighbours(run)[0][0] == 0


def test_an_index_of_another_model_is_refused(run, photos, capsys):
    use("encode", run, f"images={photos}", "name=mine")
    image = photos / "class 3" / "003.png"
    assert use("search", run, "database=mine", f"image={image}") == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["hash_layer.weight"] += 0.1
    AtomicCheckpointIO().save_checkpoint(content, checkpoint)
    assert use("search", run, "database=mine", f"image={image}") == 1
    assert "made by another model: weights differ" in capsys.readouterr().err
    shutil.rmtree(run / "codes" / "mine" / "index")
    assert use("search", run, "database=mine", f"image={image}") == 1
    assert "the codes in" in capsys.readouterr().err


def test_a_damaged_index_is_refused_with_the_mend(run, photos, capsys):
    use("encode", run, f"images={photos}", "name=mine")
    image = photos / "class 3" / "003.png"
    assert use("search", run, "database=mine", f"image={image}") == 0
    (run / "codes" / "mine" / "index" / "000001" / "index.faiss").write_bytes(b"IBxF")
    assert use("search", run, "database=mine", f"image={image}") == 1
    assert "is damaged" in capsys.readouterr().err
    shutil.rmtree(run / "codes" / "mine" / "index")
    assert use("search", run, "database=mine", f"image={image}") == 0


def test_a_run_is_used_without_its_data_and_images_that_moved_are_found(run, photos, tmp_path, monkeypatch, capsys):
    config = OmegaConf.load(run / "config.yaml")
    config.data.root = str(tmp_path / "gone")
    OmegaConf.save(config, run / "config.yaml")
    image = photos / "class 3" / "003.png"
    assert use("predict", run, f"image={image}") == 0
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert use("encode", run, f"images={moved}", "name=mine") == 0
    moved.rename(tmp_path / "elsewhere")
    assert use("search", run, "database=mine", f"image={image}", "k=3") == 0
    assert "3 of the 3 pictures cannot be shown" in " ".join(capsys.readouterr().err.replace("│", "").split())
    found = neighbours(run)
    assert use("search", run, "database=mine", f"image={image}", "k=3", f"image_root={tmp_path / 'elsewhere'}") == 0
    assert "cannot be shown" not in capsys.readouterr().err
    assert neighbours(run) == found
    assert use("predict", run, "index=0") == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_sample_of_the_run_is_predicted_as_it_is_judged(digits_run, capsys):
    assert use("predict", digits_run, "index=17", "top=10") == 0
    content = json.loads((latest(digits_run, "predictions") / "prediction.json").read_text())
    scores = [row["probability"] for row in content["classes"]]
    assert sum(scores) == pytest.approx(1, abs=1e-9)
    assert scores == sorted(scores, reverse=True)
    assert {row["class"] for row in content["classes"]} == set("0123456789")
    assert len(content["code"]) == BITS
    stored = np.load(digits_run / "codes" / "codes.npz")
    assert content["code"] == "".join(str(int(bit)) for bit in unpack(stored["query_codes"], BITS)[17])
    assert content["class"] == str(stored["query_labels"][17])
    assert "its own class" in capsys.readouterr().out
    assert (latest(digits_run, "predictions") / "prediction.png").is_file()


def test_a_few_shot_run_takes_a_file_as_it_takes_its_own_samples(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # the report reads the pictures of the training
    for place, label in enumerate(load_digits().target[:60]):
        if label < 3:
            save_digit(place, tmp_path / "birds" / ("train" if place < 40 else "test") / f"{label}" / f"{place:03}.png")
    overrides = ["task=prototype", "data=fewshot", "data.dataset=folder", f"data.root={tmp_path / 'birds'}"]
    settings = ["data.shots=2", "data.validation=none", "data.num_workers=0", "model=tiny", "model.image_size=16"]
    place = tmp_path / "run"
    config = compose_config([*overrides, *settings, "trainer=cpu", "callbacks.progress=null", f"paths.run_dir={place}"])
    config.data.bank_dir = str(tmp_path / "bank")
    assert train.run(config, []) == 0
    assert use("predict", place, "index=1") == 0
    own = json.loads((latest(place, "predictions") / "prediction.json").read_text())
    (tmp_path / "birds").rename(tmp_path / "elsewhere")
    image = sorted((tmp_path / "elsewhere" / "test").rglob("*.png"))[1]
    assert use("predict", place, f"image={image}") == 0
    found = json.loads((latest(place, "predictions") / "prediction.json").read_text())
    assert [row["class"] for row in found["classes"]] == [row["class"] for row in own["classes"]]
    for row, expected in zip(found["classes"], own["classes"], strict=True):
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-5)
    assert own["class"] == "0"
    capsys.readouterr()
    assert use("encode", place, f"images={tmp_path / 'elsewhere'}") == 1
    assert "mode=encode takes hashing and long-tail runs" in capsys.readouterr().err


def test_the_run_s_own_database_is_encoded_once(digits_run, capsys):
    assert use("search", digits_run, "index=17", "k=5") == 0
    assert "Encoding images of the split database: 1,438" in capsys.readouterr().out
    found = neighbours(digits_run)
    labels = {name: label for _, name, label in found}
    stored = np.load(digits_run / "codes" / "codes.npz")
    np.testing.assert_array_equal(np.load(digits_run / "codes" / "own" / "codes.npy"), stored["database_codes"])
    bits = unpack(stored["database_codes"], BITS) != unpack(stored["query_codes"], BITS)[17]
    expected = sorted(zip(bits.sum(1).tolist(), range(1438), strict=True))[:5]
    assert [(row[0], row[1]) for row in found] == [(distance, f"database/{place:04}") for distance, place in expected]
    assert list(labels.values()) == [str(stored["database_labels"][place]) for _, place in expected]
    assert use("search", digits_run, "index=18", "k=5") == 0
    assert "Encoding" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "overrides", "expected"),
    [
        ("predict", [], "neither is given"),
        ("predict", ["image=a.jpg", "index=3"], "both are given"),
        ("predict", ["index=100000"], "has 20 samples, numbered 0 to 19"),
        ("predict", ["index=-1"], "numbered 0 to"),
        ("predict", ["index=1", "split=validation"], "have the splits train"),
        ("predict", ["index=1", "top=0"], "top=0"),
        ("predict", ["index=1", "checkpoint=first"], "choices: auto, best, last"),
        ("search", [], "neither is given"),
        ("search", ["index=1", "k=0"], "k=0"),
        ("search", ["index=1", "database=nothing"], "mode=encode run="),
        ("encode", ["images=nowhere"], "no such folder or file"),
        ("encode", ["images=[a.jpg,b.jpg]"], "images takes one"),
        ("predict", ["image=[a.jpg,b.jpg]"], "image takes one"),
        ("encode", ["split=nothing"], "have the splits train"),
        ("encode", ["name=a b"], "name=a b"),
    ],
)
def test_wrong_questions_are_answered_with_the_mend(mode, overrides, expected, run, capsys):
    assert use(mode, run, *overrides) in (1, 2)
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_what_cannot_be_written_or_searched_is_said(run, photos, capsys):
    overrides = [f"images={photos / 'class 3'}", "name=mine"]
    assert use("encode", run, *overrides, "csv=a/b.csv") == 1
    assert "the name of a file alone" in capsys.readouterr().err
    image = f"image={photos}/class 3/003.png"
    assert use("search", run, "database=mine", image, "faiss.kind=tree") == 1
    assert "flat, ivf, hnsw" in capsys.readouterr().err
    assert use("search", run, "database=mine", image, "k=1000") == 0
    assert "all are listed" in " ".join(capsys.readouterr().err.split())


def test_codes_of_other_images_with_the_same_names_are_not_taken(run, photos, tmp_path, capsys):
    other = tmp_path / "others"
    shutil.copytree(photos / "class 3", other)
    assert use("encode", run, f"images={photos / 'class 3'}", "name=twice") == 0
    assert use("encode", run, f"images={other}", "name=twice") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "name=twice" in error
    assert f"images below {photos / 'class 3'}" in error
    assert "give another name=NAME" in error


def test_a_damaged_note_of_the_images_is_refused(tmp_path):
    (tmp_path / "images.json").write_text("[]")
    with pytest.raises(UserError, match=r"images\.json is damaged"):
        encode.read_source(tmp_path)
    assert encode.read_source(tmp_path / "none") is None
    encode.note_source(tmp_path / "new", encode.CodeSource(Path("/photos"), "database"))
    assert encode.read_source(tmp_path / "new") == encode.CodeSource(Path("/photos"), "database")
