"""The same data with another draw: what new data of that seed would be, without reading anything twice."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coop_splits import FewShotImages
from datamodules.digits_fewshot import DigitsFewShot
from datamodules.features import Features


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


class Colours:
    """Mean colours as features; counts its images."""

    name, identity, image_size, has_text = "colours", "1" * 64, 8, False

    def __init__(self):
        self.images = 0

    def encode_images(self, images):
        self.images += len(images)
        return images.float().mean(dim=(2, 3))


@pytest.mark.parametrize("encode", ["pool", "drawn"])
def test_images_are_encoded_once_and_those_of_a_draw_alone_for_it(tmp_path, encode):
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3), ("test", 2)):
        for label in ("a", "b"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.broadcast_to(generator.integers(1, 255, (1, 1, 3), dtype=np.uint8), (9, 9, 3))
                Image.fromarray(pixels.copy()).save(tmp_path / "photos" / part / label / f"{number}.png")

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
