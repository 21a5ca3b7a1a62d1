"""The same data with another draw: what new data of that seed would be, without reading anything twice."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coop_splits import FewShotImages
from datamodules.digits_fewshot import DigitsFewShot
from datamodules.features import Features
from datamodules.jittor import Jittor


def assert_equal(found, wanted):
    assert found.fingerprint == wanted.fingerprint
    assert found.evaluation_protocol == wanted.evaluation_protocol
    for split in ("train", "val", "test"):
        assert torch.equal(found.features(split), wanted.features(split))
        assert torch.equal(found.labels(split), wanted.labels(split))
    assert found.seed == wanted.seed


@pytest.fixture
def archive(tmp_path):
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=(size, 6)) for name, size in (("train", 60), ("test", 20))}
    arrays = {f"{name}_features": one / np.linalg.norm(one, axis=1, keepdims=True) for name, one in rows.items()}
    np.savez(tmp_path / "f.npz", **arrays, train_labels=np.arange(60) % 4, test_labels=np.arange(20) % 4)
    return tmp_path / "f.npz"


def test_a_file_is_read_once_and_its_test_part_is_one_tensor(archive):
    data = Features(file=archive, seed=0, shots=3, validation="shots")
    data.setup()
    archive_again = Features(file=archive, seed=5, split_seed=5, shots=3, validation="shots")
    archive_again.setup()
    archive.unlink()
    other = data.redrawn(5, 5)
    assert_equal(other, archive_again)
    assert other.features("test") is data.features("test")
    assert not torch.equal(other.support_features, data.support_features)


def test_a_draw_of_a_file_is_read_in_place_of_made(archive, tmp_path):
    first = Features(file=archive, seed=7, split_seed=7, shots=3, validation="shots", split_dir=tmp_path / "splits")
    first.setup()
    data = Features(file=archive, seed=0, shots=3, validation="shots")
    data.setup()
    assert torch.equal(data.redrawn(0, 7, first.split_path).support_features, first.support_features)


def test_digits_draw_their_test_part_too():
    data = DigitsFewShot(seed=0, shots=2)
    data.setup()
    wanted = DigitsFewShot(seed=3, split_seed=3, shots=2)
    wanted.setup()
    assert_equal(data.redrawn(3, 3), wanted)
    assert not torch.equal(data.features("test"), wanted.features("test"))
    assert data.redrawn(3, 3).text_features is data.text_features


class Colours:
    """Mean colours as image features, letters as text features; counts what it encodes."""

    name, identity, image_size, resize, has_text = "colours", "1" * 64, 8, 8, True

    def __init__(self):
        self.images = self.sentences = 0

    def encode_images(self, images):
        self.images += len(images)
        return images.float().mean(dim=(2, 3))

    def encode_text(self, sentences):
        self.sentences += len(sentences)
        return torch.tensor([[len(one), one.count("a"), one.count("b") + 1] for one in sentences]).float()


def write_image(path, generator):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(generator.integers(1, 255, (1, 1, 3), dtype=np.uint8), (9, 9, 3))
    Image.fromarray(pixels.copy()).save(path)


@pytest.mark.parametrize("encode", ["pool", "drawn"])
def test_images_are_encoded_once_and_those_of_a_draw_alone_for_it(tmp_path, encode):
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3), ("test", 2)):
        for label in ("a", "b"):
            for number in range(count):
                write_image(tmp_path / "photos" / part / label / f"{number}.png", generator)

    def images(seed, bank):
        data = FewShotImages(
            dataset="folder", root=tmp_path / "photos", shots=2, seed=seed, split_seed=seed, encode=encode,
            validation="shots", bank_dir=tmp_path / bank,
        )  # fmt: skip
        data.attach_encoder(Colours())
        data.setup()
        return data

    data = images(0, "one")
    before = data.encoder.images
    other = data.redrawn(4, 4)
    assert other.has_encoder
    assert_equal(other, images(4, "other"))
    assert data.encoder.images - before == (0 if encode == "pool" else 4)
    assert data.encoder.sentences == 2
    assert other.text_features is data.text_features
    assert other.features("test") is data.features("test")


SHOTS, CLASSES, EACH = 2, 3, 10


@pytest.fixture
def contest(tmp_path):
    """Return the folder of a contest of three classes with ten images each."""
    generator, root = np.random.default_rng(0), tmp_path / "contest"
    names = [f"Animal_{letter}" for letter in "ABC"]
    paths = [f"TrainSet/Animal/{name[-1]}/{number}.png" for name in names for number in range(EACH)]
    for path in paths:
        write_image(root / path, generator)
    (root / "classes.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    (root / "train.txt").write_text("".join(f"{path} {place // EACH}\n" for place, path in enumerate(paths)))
    return root


def contest_data(root, seed, banks, **settings):
    data = Jittor(
        root=root,
        seed=seed,
        split_seed=seed,
        bank_dir=root.parent / banks,
        **{"shots": SHOTS, "validation": "shots", **settings},
    )
    data.attach_encoder(Colours())
    data.setup()
    return data


@pytest.mark.parametrize("views", [0, 3])
def test_a_list_whose_test_part_is_drawn_is_encoded_once_for_all_draws(contest, views):
    data = contest_data(contest, 0, "one", views=views)
    # with views the training images are seen twice: by their crops, and as an evaluated image by the centre
    assert data.encoder.images == CLASSES * EACH * (1 + views)
    other = data.redrawn(4, 4)
    assert_equal(other, contest_data(contest, 4, "other", views=views))
    assert not torch.equal(other.features("test"), data.features("test"))
    assert data.encoder.images == CLASSES * EACH * (1 + views)
    assert data.encoder.sentences == CLASSES
    assert other.text_features is data.text_features
    later = contest_data(contest, 7, "one", views=views)
    assert later.encoder.images == 0


def test_the_features_of_a_drawn_part_are_those_of_its_own_images(contest):
    data = contest_data(contest, 5, "one")
    for split in ("train", "val", "test"):
        pool, rows = data.pool_positions(split)
        colours = [np.asarray(Image.open(data.images.files[pool][row]))[0, 0] for row in rows.tolist()]
        wanted = torch.from_numpy(np.array(colours)).float()
        assert torch.allclose(data.features(split), wanted / wanted.norm(dim=1, keepdim=True), atol=1e-6)


def test_what_a_committed_list_leaves_over_is_encoded_once_too(contest):
    chosen = contest / "chosen.txt"
    lines = (contest / "train.txt").read_text().splitlines()
    chosen.write_text("\n".join(line for line in lines if "/3." in line or "/8." in line))
    settings = {"support_list": chosen, "shots": None, "validation": "full"}
    data = contest_data(contest, 0, "one", **settings)
    assert data.encoder.images == CLASSES * EACH
    other = data.redrawn(4, 4)
    assert_equal(other, contest_data(contest, 4, "other", **settings))
    assert data.encoder.images == CLASSES * EACH
    assert torch.equal(other.support_features, data.support_features)
    assert not torch.equal(other.features("test"), data.features("test"))


def test_drawn_images_alone_are_encoded_where_that_is_asked_for(contest):
    data = contest_data(contest, 0, "one", encode="drawn")
    held_out = len(data.labels("test"))
    assert data.encoder.images == 2 * SHOTS * CLASSES + held_out < CLASSES * EACH
    other = data.redrawn(4, 4)
    assert_equal(other, contest_data(contest, 4, "other", encode="drawn"))
    assert data.encoder.images == 2 * (2 * SHOTS * CLASSES + held_out)


def test_the_bank_that_is_named_holds_the_views_of_training_images_alone(contest):
    mine = contest.parent / "mine"
    contest_data(contest, 0, "one", views=2, bank=mine)
    later = contest_data(contest, 3, "other", views=2, bank=mine)
    # the crops are there; the centres, which evaluated images are seen by, are not
    assert later.encoder.images == CLASSES * EACH
