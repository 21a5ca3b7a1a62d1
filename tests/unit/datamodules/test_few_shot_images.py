"""Few-shot draws as images: the same images as those whose features are drawn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coop_splits import FewShotImages
from datamodules.digits_fewshot import DigitsFewShot
from datamodules.few_shot_images import DigitsFewShotImages, FewShotImageFiles, JittorImages
from datamodules.jittor import Jittor
from records.errors import UserError

NAMES = ("Animal_cat", "Thu-dog_pug", "Thu-dog_hot_dog", "Stanford-Cars_Audi")


def write_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.full((10, 12, 3), [number % 256, number // 256, 7], dtype=np.uint8)
    Image.fromarray(colour).save(path)


@pytest.fixture
def contest(tmp_path):
    lines = []
    for label, name in enumerate(NAMES):
        for number in range(12):
            write_image(tmp_path / "TrainSet" / name / f"{number}.png", 100 * label + number)
            lines.append(f"TrainSet/{name}/{number}.png {label}")
    (tmp_path / "classes_b.txt").write_text("\n".join(f"{name} {label}" for label, name in enumerate(NAMES)))
    (tmp_path / "train.txt").write_text("\n".join(lines))
    return tmp_path


def numbers(data, split):
    """The number that each image of a split was written with, and its label."""
    batch = data.evaluation_view(split).__getitems__(list(range(data.sizes[split])))
    pixels = batch["image"][:, :2, 0, 0].long()
    return dict(zip((pixels[:, 0] + 256 * pixels[:, 1]).tolist(), batch["label"].tolist(), strict=True))


def drawn(source, split):
    pool, positions = source.pool_positions(split)
    files = [source.images.files[pool][place] for place in positions.tolist()]
    return {100 * NAMES.index(file.parent.name) + int(file.stem): NAMES.index(file.parent.name) for file in files}


SETTINGS = {"shots": 3, "validation": "min4", "seed": 0, "split_seed": 5, "test_fraction": 0.25}


def test_the_contests_images_are_those_of_its_features(contest):
    hidden = {"hold_unseen": ["Stanford-Cars_"]}
    data = JittorImages(root=contest, image_size=8, **SETTINGS, **hidden)
    source = Jittor(root=contest, **SETTINGS, **hidden)
    for split in ("train", "val", "test"):
        assert numbers(data, split) == drawn(source, split)
    assert data.seen_classes.tolist() == [True, True, True, False]
    assert data.class_counts.tolist() == [3, 3, 3, 0]
    assert data.class_sentences[2] == ["a photo of a hot dog, a type of dog."]
    assert data.evaluation_protocol == {
        "shots": 3,
        "validation": "min(shots,4)",
        "validation_samples": 9,
        "split_seed": 5,
    }


def test_some_classes_keep_their_draw(contest):
    everything = JittorImages(root=contest, image_size=8, **SETTINGS)
    dogs = JittorImages(root=contest, image_size=8, only=["Thu-dog_"], **SETTINGS)
    assert dogs.class_names == NAMES[1:3]
    for split in ("train", "val", "test"):
        whole = {number: label - 1 for number, label in numbers(everything, split).items() if label in (1, 2)}
        assert numbers(dogs, split) == whole
    assert dogs.class_sentences == everything.class_sentences[1:3]
    assert dogs.protocol_name == f"{everything.protocol_name}-Thu-dog"
    assert dogs.fingerprint != everything.fingerprint
    assert dogs.seen_classes is None
    with pytest.raises(UserError, match=r"no class begins so; the first are Animal_cat"):
        JittorImages(root=contest, image_size=8, only=["dog"], **SETTINGS).setup()


def test_a_split_file_brings_the_draw_back(contest, tmp_path):
    data = JittorImages(root=contest, image_size=8, split_dir=tmp_path / "splits", **SETTINGS)
    data.setup()
    again = JittorImages(root=contest, image_size=8, split_file=data.split_path, **SETTINGS)
    assert numbers(again, "train") == numbers(data, "train")
    assert again.fingerprint == data.fingerprint


def test_class_folders_are_read_with_their_validation_part(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        for label, name in enumerate(NAMES[:2]):
            for number in range(count):
                write_image(tmp_path / part / name / f"{number}.png", 100 * label + number)
    given = {"dataset": "folder", "root": tmp_path, "shots": 2, "seed": 0, "split_seed": 1}
    data = FewShotImageFiles(image_size=8, **given)
    source = FewShotImages(**given)
    assert data.sizes == {"train": 4, "val": 4, "test": 8}
    for split in ("train", "val", "test"):
        pool, positions = source.pool_positions(split)
        names = [source.images.files[pool][place] for place in positions.tolist()]
        found = [data.data.source.path(place) for place in data.positions(split).tolist()]
        assert found == names
    none = FewShotImageFiles(image_size=8, **given, validation="none")
    assert none.val_splits == ()
    assert none.sizes == {"train": 4, "test": 8}


@pytest.mark.parametrize("root", ["photos", "absolute"])
def test_images_are_found_wherever_the_split_file_lies(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(NAMES[:2]):
        for number in range(6):
            write_image(tmp_path / "photos" / name / f"{number}.png", 100 * label + number)
    write_image(tmp_path / "elsewhere" / "6.png", 6)
    split = {
        part: [[f"{name}/{number}.png", label, name] for label, name in enumerate(NAMES[:2]) for number in of_class]
        for part, of_class in {"train": (0, 1), "val": (2, 3), "test": (4, 5)}.items()
    }
    split["test"].append([str(tmp_path / "elsewhere" / "6.png"), 0, NAMES[0]])
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "split.json").write_text(json.dumps(split))
    given = {"dataset": "json", "split_list": "lists/split.json", "shots": 2, "seed": 0, "split_seed": 1}
    folder = "photos" if root == "photos" else tmp_path / "photos"
    data = FewShotImageFiles(image_size=8, root=folder, **given)
    assert numbers(data, "test") == {4: 0, 5: 0, 104: 1, 105: 1, 6: 0}
    same = FewShotImageFiles(image_size=8, root=tmp_path / "lists" / ".." / "photos", **given)
    assert same.fingerprint == data.fingerprint


@pytest.mark.parametrize("resize", [None, 15])
def test_evaluated_images_are_cut_as_encoders_see_them(resize, contest):
    from datamodules.images.encoder_views import ImageFileViews, ViewSettings

    path = contest / "TrainSet" / NAMES[0] / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = JittorImages(root=contest, image_size=12, resize=resize, **SETTINGS)
    source = data.data.source
    place = next(place for place in range(len(source)) if source.path(place) == path)
    expected = ImageFileViews([path], ViewSettings(12, resize=resize))[0][0]
    # a box read at the network's size rounds once, an image that is resized and then cut likewise, elsewhere
    assert (source.read(torch.tensor([place]))[0].int() - expected.int()).abs().max() <= (0 if resize is None else 1)


def test_digits_are_those_of_the_features():
    given = {"shots": 2, "validation": "shots", "split_seed": 3, "seed": 0}
    data, source = DigitsFewShotImages(image_size=None, **given), DigitsFewShot(**given)
    for split in ("train", "val", "test"):
        batch = data.evaluation_view(split).__getitems__(list(range(data.sizes[split])))
        expected = source.pictures(split, torch.arange(source.sizes[split]))
        assert torch.equal(batch["image"], expected)
        assert torch.equal(batch["label"], source.labels(split))
    assert data.class_sentences[7] == ['a photo of the number: "7".']
    assert data.seen_classes is None


def test_a_draw_that_leaves_nothing_is_refused():
    data = DigitsFewShotImages(image_size=None, shots=None, validation="full", seed=0)
    with pytest.raises(UserError, match=r"no image for validation.*data\.validation=none"):
        data.setup()
