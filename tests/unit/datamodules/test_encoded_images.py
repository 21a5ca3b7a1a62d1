"""Few-shot data made of image files: CoOp's splits, class folders, tables, and the contest's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coop_splits import FewShotImages, read_aircraft, read_coop_json, read_csv, read_imagenet
from datamodules.encoded.encoded_images import ImagePools, _file_item
from datamodules.encoded.few_shot import POOLS
from datamodules.encoded.joined_features import JoinedFeatures
from datamodules.jittor import Jittor, read_classes
from records.errors import UserError
from records.notices import RunWarning

CLASSES = ("hot_dog", "cat")


class Encoder:
    """Mean colours as image features, letters as text features; remembers what it was asked for."""

    name = "toy"
    image_size = resize = 8
    has_text = True

    def __init__(self, identity: str = "1" * 64) -> None:
        self.identity = identity
        self.images = 0
        self.sentences: list[str] = []

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        return images.float().mean(dim=(2, 3))

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        self.sentences += sentences
        return torch.tensor([[len(one), one.count("a"), one.count("o") + 1] for one in sentences]).float()


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.random.default_rng(seed).integers(1, 256, (1, 1, 3), dtype=np.uint8)
    Image.fromarray(np.broadcast_to(colour, (10, 12, 3)).copy()).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                write_image(root / part / name / f"{number}.png", 100 * label + number)
    return root


def few_shot(root: Path, encoder: Encoder, **settings: Any) -> FewShotImages:
    given = {"dataset": "folder", "shots": 2, "seed": 0, "validation": "min4", "bank_dir": root.parent / "bank"}
    data = FewShotImages(root=root, **{**given, **settings})
    data.attach_encoder(encoder)
    data.setup()
    return data


def test_class_folders_become_features_that_are_computed_once(folders: Path) -> None:
    encoder = Encoder()
    data = few_shot(folders, encoder)
    assert data.sizes == {"train": 4, "val": 4, "test": 8}
    assert data.class_names == ("cat", "hot_dog")
    assert encoder.images == 12 + 6 + 8
    for shots, seed in ((1, 0), (4, 3)):
        again = Encoder()
        few_shot(folders, again, shots=shots, split_seed=seed, validation="none")
        assert (again.images, again.sentences) == (0, [])
    other = Encoder("2" * 64)
    few_shot(folders, other)
    assert other.images == 26
    pool, positions = data.pool_positions("train")
    expected = [np.asarray(Image.open(data.images.files[pool][row]))[0, 0] for row in positions.tolist()]
    expected = torch.from_numpy(np.array(expected)).float()
    assert torch.allclose(data.support_features, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
    assert data.pictures("test", torch.tensor([0, 5])).shape == (2, 3, 8, 8)


def test_a_changed_file_is_encoded_anew_and_a_named_bank_refused(folders: Path) -> None:
    few_shot(folders, Encoder(), bank=folders.parent / "mine")
    Image.fromarray(np.full((90, 90, 3), 7, dtype=np.uint8)).save(folders / "train" / "cat" / "0.png")
    encoder = Encoder()
    few_shot(folders, encoder)
    assert encoder.images == 12
    with pytest.raises(UserError, match="was made for something else: it differs in data"):
        few_shot(folders, Encoder(), bank=folders.parent / "mine")


@pytest.mark.parametrize(("size", "place"), [(300, 150), (40_000, 10), (40_000, 39_990)])
def test_a_file_is_another_one_where_its_content_differs_and_not_its_size(
    tmp_path: Path, size: int, place: int
) -> None:
    file = tmp_path / "image.jpg"
    content = bytearray(np.random.default_rng(0).bytes(size))
    file.write_bytes(content)
    before = _file_item(file, tmp_path)
    shutil.copy(file, tmp_path / "copy.jpg")
    assert _file_item(tmp_path / "copy.jpg", tmp_path) == before.replace("image.jpg", "copy.jpg")
    content[place] ^= 1
    file.write_bytes(content)
    assert _file_item(file, tmp_path) != before


def test_every_bank_tells_of_its_own_progress_by_name(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def recorded(what: str, is_shown: bool) -> Iterator[Any]:
        assert is_shown
        yield lambda *done: told.setdefault(what, []).append(done)

    monkeypatch.setattr("datamodules.encoded.encoded_images.progress", recorded)
    few_shot(folders, Encoder())
    ends = {what: done[-1] for what, done in told.items()}
    assert ends == {
        "encoding the images of 'train' by toy": (12, 12),
        "encoding the images of 'val' by toy": (6, 6),
        "encoding the images of 'test' by toy": (8, 8),
        "encoding the sentences by toy": (2, 2),
    }


class WithTestFolders(FewShotImages):
    """Data of another family than the contest's that answers are written for, too."""

    def test_folder(self, folder: str) -> list[Path]:
        return sorted((self.root / folder / "cat").iterdir())

    def test_folder_features(self, folder: str) -> tuple[list[str], torch.Tensor]:
        files = self.test_folder(folder)
        return [file.name for file in files], self.features_of(folder, files)


def test_any_data_with_test_folders_can_be_joined(folders: Path) -> None:
    def joined(kind: type[FewShotImages]) -> JoinedFeatures:
        settings: dict[str, Any] = {"dataset": "folder", "shots": 2, "seed": 0, "bank_dir": folders.parent / "bank"}
        data = JoinedFeatures({name: kind(root=folders, **settings) for name in ("one", "other")})
        for part in data.parts.values():
            part.attach_encoder(Encoder())
        return data

    names, features = joined(WithTestFolders).test_folder_features("test")
    assert names == ["0.png", "1.png", "2.png", "3.png"]
    assert features.shape == (4, 6)
    assert torch.equal(features[:, :3], features[:, 3:])
    with pytest.raises(UserError, match="the data set photos has no test folders"):
        joined(FewShotImages).test_folder("test")


def test_a_bank_survives_a_move_of_the_images(folders: Path) -> None:
    few_shot(folders, Encoder())
    moved = shutil.move(folders, folders.parent / "elsewhere" / "photos")
    encoder = Encoder()
    few_shot(Path(moved), encoder, bank_dir=folders.parent / "bank")
    assert encoder.images == 0


def test_views_are_for_training_alone(folders: Path) -> None:
    shutil.rmtree(folders / "val")
    data = few_shot(folders, Encoder(), views=3, encode="drawn")
    assert data.support_features.shape == (4, 3, 3)
    assert data.validation_features.shape == (4, 3)
    encoder = Encoder()
    few_shot(folders, encoder, encode="drawn", views=5)
    assert encoder.images == 4 * 5


def test_text_is_the_mean_of_unit_sentences_about_readable_names(folders: Path) -> None:
    encoder = Encoder()
    data = few_shot(folders, encoder, templates="seven")
    assert encoder.sentences[0] == "itap of a cat."
    assert encoder.sentences[7] == "itap of a hot dog."
    rows = Encoder().encode_text(encoder.sentences[:7])
    mean = (rows / rows.norm(dim=1, keepdim=True)).mean(dim=0)
    assert torch.allclose(data.text_features[0], mean / mean.norm(), atol=1e-6)
    assert data.evaluation_protocol["templates"] == "seven"


def test_an_encoder_without_text_gives_none(folders: Path) -> None:
    encoder = Encoder()
    encoder.has_text = False
    assert few_shot(folders, encoder).text_features is None


def split_file(root: Path, folder: Path) -> Path:
    rows = {
        part: [[f"{part}/{name}/{n}.png", y, name] for y, name in enumerate(CLASSES) for n in range(3)]
        for part in ("train", "val", "test")
    }
    file = root / "split_zhou_Toy.json"
    file.write_text(json.dumps(rows))
    return file


def test_coops_split_files_are_read(folders: Path) -> None:
    pools = read_coop_json(split_file(folders, folders), folders)
    assert pools.class_names == CLASSES
    assert {part: len(files) for part, files in pools.files.items()} == {"train": 6, "val": 6, "test": 6}
    assert pools.files["val"][3] == folders / "val" / "cat" / "0.png"
    assert pools.labels["val"].tolist() == [0, 0, 0, 1, 1, 1]


def names_in_fingerprints(pools: ImagePools, pool: str) -> list[str]:
    return [_file_item(file, pools.root).split(" ")[0] for file in pools.files[pool]]


def test_names_in_fingerprints_start_from_the_split_file_or_the_images_wherever_it_lies(folders: Path) -> None:
    beside = read_coop_json(split_file(folders.parent, folders), folders)
    assert names_in_fingerprints(beside, "val")[0] == "photos/val/hot_dog/0.png"
    apart = folders.parent / "lists"
    apart.mkdir()
    file = split_file(apart, folders)
    assert names_in_fingerprints(read_coop_json(file, folders), "val")[0] == "val/hot_dog/0.png"
    settings: dict[str, Any] = {"dataset": "json", "split_list": file, "bank_dir": folders.parent / "bank"}
    assert few_shot(folders, Encoder(), **settings).sizes == {"train": 4, "val": 4, "test": 6}
    moved = folders.parent / "elsewhere" / folders.name
    moved.parent.mkdir()
    folders.rename(moved)
    again = Encoder()
    few_shot(moved, again, **settings)
    assert again.images == 0


def test_an_image_outside_the_root_has_its_whole_path_in_fingerprints(folders: Path) -> None:
    elsewhere = folders.parent / "elsewhere" / "0.png"
    write_image(elsewhere, 7)
    lines = [f"{part}/{name}/0.png,{name},{part}" for part in ("train", "test") for name in CLASSES]
    file = folders / "list.csv"
    file.write_text("path,label,split\n" + "\n".join([*lines, f"{elsewhere},cat,train"]) + "\n")
    pools = read_csv(folders, file)
    assert names_in_fingerprints(pools, "train") == ["train/hot_dog/0.png", "train/cat/0.png", str(elsewhere)]
    assert few_shot(folders, Encoder(), dataset="csv", split_list=file, shots=1, validation="none").sizes["train"] == 2


def test_a_published_set_is_found_by_name_and_its_size_checked(folders: Path) -> None:
    home = folders.parent / "oxford_flowers"
    home.mkdir()
    folders.rename(home / "jpg")
    split_file(home, home / "jpg").rename(home / "split_zhou_OxfordFlowers.json")
    with pytest.warns(RunWarning, match="6 test images, and the published test part has 2463"):
        data = few_shot(home.parent, Encoder(), dataset="oxford_flowers")
    assert data.sizes["test"] == 6
    assert data.protocol_name == "oxford_flowers-2shot-val-min4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no split file of CoOp"),
        ('{"train": [], "val": []}', "KeyError: 'test'"),
        ('{"train": [["a.png", 0, "x"]], "val": [["a.png", 0, "y"]], "test": []}', "one class name each"),
        ('{"train": [["a.png", 0, "x"]], "val": [["a.png", 0, "x"]], "test": []}', "1 of 1 images of 'train'"),
    ],
)
def test_bad_split_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "split.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_coop_json(file, tmp_path)


def test_imagenet_tests_on_its_validation_part(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_image(tmp_path / "imagenet" / "images" / part / "n01" / f"{number}.JPEG", number)
            write_image(tmp_path / "imagenet" / "images" / part / "n02" / f"{number}.JPEG", number)
    (tmp_path / "imagenet" / "classnames.txt").write_text("n02 great white shark\nn01 tench\n")
    pools = read_imagenet(tmp_path)
    assert pools.class_names == ("great white shark", "tench")
    assert pools.labels["test"].tolist() == [0, 0, 1, 1]
    assert pools.files["test"][0].parent.name == "n02"
    assert "val" not in pools.files


def test_aircraft_are_read_by_their_variants(tmp_path: Path) -> None:
    home = tmp_path / "fgvc_aircraft"
    for number in range(3):
        write_image(home / "images" / f"00{number}.jpg", number)
    (home / "variants.txt").write_text("707-320\nCessna 172\n")
    for place, part in enumerate(("train", "val", "test")):
        (home / f"images_variant_{part}.txt").write_text(f"00{place} Cessna 172\n")
    pools = read_aircraft(tmp_path)
    assert pools.class_names == ("707-320", "Cessna 172")
    assert pools.files["test"] == (home / "images" / "002.jpg",)
    assert pools.labels["test"].tolist() == [1]


def test_a_table_names_path_label_and_split(folders: Path) -> None:
    lines = [f"{part}/{name}/0.png,{name},{part}" for part in ("train", "val", "test") for name in CLASSES]
    file = folders / "list.csv"
    file.write_text("path,label,split\n" + "\n".join(lines) + "\n")
    pools = read_csv(folders, file)
    assert pools.class_names == ("cat", "hot_dog")
    assert {part: labels.tolist() for part, labels in pools.labels.items()} == {part: [1, 0] for part in POOLS}
    with pytest.raises(UserError, match=r"set data\.split_list=FILE"):
        FewShotImages(root=folders, dataset="csv", seed=0)
    with pytest.raises(UserError, match="the choices are imagenet, caltech101"):
        FewShotImages(root=folders, dataset="birds", seed=0)  # type: ignore[arg-type]


CONTEST = ("Animal_Bear", "Animal_Red_Fox", "Thu-dog_Affenpinscher", "Stanford-Cars_Audi_TTS")


@pytest.fixture
def contest(tmp_path: Path) -> Path:
    root = tmp_path / "contest"
    root.mkdir()
    lines = [f"{name} {number}" for number, name in enumerate(CONTEST)]
    (root / "classes.txt").write_text("\n".join(lines[:3]) + "\n")
    (root / "classes_b.txt").write_text("\n".join(lines) + "\n")
    rows = []
    for label, name in enumerate(CONTEST[:3]):
        kind, _, bare = name.partition("_")
        for number in range(10):
            path = f"TrainSet/{kind}/{bare}/{number}.png"
            write_image(root / path, 50 * label + number)
            rows.append(f"{path} {label}")
    (root / "train.txt").write_text("\n".join(rows) + "\n")
    for number in (10, 2, 1):
        write_image(root / "TestSetB" / f"image_{number}.jpg", number)
    return root


def jittor(root: Path, **settings: Any) -> Jittor:
    data = Jittor(
        root=root, **{"shots": 4, "seed": 0, "bank_dir": root.parent / "bank", "validation": "min4", **settings}
    )
    data.attach_encoder(Encoder())
    data.setup()
    return data


def test_the_contest_has_seen_and_unseen_classes(contest: Path) -> None:
    data = jittor(contest)
    assert data.class_names == CONTEST
    assert data.seen_classes.tolist() == [True, True, True, False]
    assert data.sizes == {"train": 12, "val": 12, "test": 6}
    assert data.class_counts.tolist() == [4, 4, 4, 0]
    assert data.group("Thu-dog_").tolist() == [False, False, True, False]


def test_classes_of_a_prefix_can_be_held_back(contest: Path) -> None:
    data = jittor(contest, hold_unseen=["Thu-dog_"])
    assert data.seen_classes.tolist() == [True, True, False, False]
    assert torch.bincount(data.labels("test")).tolist() == [2, 2, 10]
    with pytest.raises(UserError, match="the prefix 'Cat_', which no class has"):
        jittor(contest, hold_unseen=["Cat_"])


def test_sentences_follow_the_prefix(contest: Path) -> None:
    encoder = Encoder()
    data = Jittor(root=contest, seed=0, bank_dir=contest.parent / "bank")
    data.attach_encoder(encoder)
    assert data.load_text() is not None
    assert encoder.sentences == [
        "a photo of a Bear, a type of animal.",
        "a photo of a Red Fox, a type of animal.",
        "a photo of a Affenpinscher, a type of dog.",
        "a photo of a Audi TTS, a type of car.",
    ]


def test_a_committed_list_is_the_support_set(contest: Path) -> None:
    lines = [line for line in (contest / "train.txt").read_text().splitlines() if "/0." in line or "/7." in line]
    chosen = contest / "train4.txt"
    chosen.write_text("\n".join(line.replace(" ", ",") for line in lines))
    data = jittor(contest, support_list=chosen, shots=None, validation="full")
    files = {str(file.relative_to(contest)) for file in data.images.files["train"]}
    assert files == {line.split()[0] for line in lines}
    assert data.sizes["train"] == 6
    assert data.sizes["val"] + data.sizes["test"] == 24
    chosen.write_text("TrainSet/Animal/Bear/99.png 0\n")
    with pytest.raises(UserError, match=r"1 images are not in train\.txt"):
        jittor(contest, support_list=chosen, shots=None, validation="none")


def test_test_folders_are_read_by_number(contest: Path) -> None:
    names, features = jittor(contest).test_folder_features("TestSetB")
    assert names == ["image_1.jpg", "image_2.jpg", "image_10.jpg"]
    assert features.shape == (3, 3)
    with pytest.raises(UserError, match="TestSetA has no images"):
        jittor(contest).test_folder("TestSetA")


@pytest.mark.parametrize("lines", ["a 0\nb 2\n", "a 0\nb 0\n", "a\n", "a x\n"])
def test_bad_class_lists_are_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(UserError, match=r"classes\.txt"):
        read_classes(tmp_path / "classes.txt")
