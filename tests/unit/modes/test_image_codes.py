"""A trained task over lists of images: what is encoded, what an interruption costs, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits

from callbacks import encoding_writer
from datamodules.images.image_files import CentreCut, ImageFiles
from datamodules.images.images_to_encode import ImagesToEncode, ImageViews, Views
from launch.compose import compose_config
from modes import build
from modes.image_codes import TrainedRun, encode_images, encode_once, own_folder
from records.errors import UserError
from records.notices import RunWarning
from retrieval.codes import unpack

NAMES = tuple(f"{number:02}.jpg" for number in range(10))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, pixels in zip(NAMES, load_digits().images, strict=False):
        grey = np.rint(np.kron(pixels, np.ones((5, 6))) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    overrides = ["trainer=cpu", "task.bits=12", "data.eval_batch_size=4", "callbacks.progress=null", f"run={run}"]
    settings = OmegaConf.to_container(compose_config([*overrides, f"paths.run_dir={run}"]), resolve=True)
    backbone = build.build_backbone(settings)
    data = build.build_data(settings, backbone)
    torch.manual_seed(0)
    task = build.build_task(settings, backbone, data).eval()
    return TrainedRun(settings, Path("last.ckpt"), "0" * 64, task, data)


def direct(trained, images, flip=False, resize=32):
    source = ImageFiles(images, NAMES, torch.zeros(10), 32, resize)
    pixels = source.read(torch.arange(10))
    with torch.no_grad():
        features = trained.task.encode({"image": pixels.flip(-1) if flip else pixels})
        return features.numpy(), trained.task.head(features)["h"].numpy()


def test_encodings_are_what_evaluation_computes(trained, images, tmp_path):
    found = encode_images(trained, images, NAMES, tmp_path / "codes")
    features, values = direct(trained, images)
    assert found.names == NAMES
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    np.testing.assert_allclose(found.values, values, atol=1e-5)
    assert np.array_equal(unpack(np.asarray(found.codes), 12), np.asarray(found.values) > 0)


def test_views_are_averaged(trained, images, tmp_path):
    found = encode_images(trained, images, NAMES, tmp_path / "codes", views=Views(flip=True, zooms=(1.0, 1.25)))
    resizes = [32, 40]
    parts = [direct(trained, images, flip, resize) for resize in resizes for flip in (False, True)]
    np.testing.assert_allclose(found.values, np.mean([values for _, values in parts], axis=0), atol=1e-5)
    units = [features / np.linalg.norm(features, axis=1, keepdims=True) for features, _ in parts]
    np.testing.assert_allclose(found.features, np.mean(units, axis=0), atol=1e-5)


def test_an_interrupted_encoding_goes_on_with_the_missing_blocks(trained, images, tmp_path, monkeypatch):
    target, written = tmp_path / "codes", []
    write = encoding_writer.write_block

    def write_two(folder, number, block):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        write(folder, number, block)

    monkeypatch.setattr(encoding_writer, "write_block", write_two)
    with pytest.raises(KeyboardInterrupt):
        encode_images(trained, images, NAMES, target, block_size=3)
    assert written == [0, 1]
    monkeypatch.setattr(encoding_writer, "write_block", lambda *block: (written.append(block[1]), write(*block)))
    found = encode_images(trained, images, NAMES, target, block_size=3)
    assert written == [0, 1, 2, 3]
    np.testing.assert_allclose(found.values, direct(trained, images)[1], atol=1e-5)
    assert encode_images(trained, images, NAMES, target, block_size=3).names == NAMES
    assert written == [0, 1, 2, 3]


def test_unreadable_images_are_counted_and_nothing_else_is_lost(trained, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((images / name).read_bytes())
    (folder / NAMES[3]).write_bytes((images / NAMES[3]).read_bytes()[:300])
    (folder / NAMES[4]).unlink()
    (folder / NAMES[7]).write_text("no image")
    with pytest.warns(RunWarning, match="3 of 10 images cannot be read"):
        found = encode_images(trained, folder, NAMES, tmp_path / "codes")
    assert set(found.unreadable) == {NAMES[3], NAMES[4], NAMES[7]}
    assert found.unreadable[NAMES[4]] == "there is no such file"
    kept = [place for place, name in enumerate(NAMES) if name not in found.unreadable]
    np.testing.assert_allclose(found.values, direct(trained, images)[1][kept], atol=1e-5)


def test_a_folder_without_a_readable_image_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"none of the 2 images can be read; the first, a\.jpg: there is no such file"):
        encode_images(trained, tmp_path, ["a.jpg", "b.jpg"], tmp_path / "codes")


def test_encodings_by_other_weights_are_refused_and_lie_elsewhere(trained, images, tmp_path):
    encode_images(trained, images, NAMES, tmp_path / "codes")
    other = TrainedRun(trained.settings, trained.checkpoint, "1" * 64, trained.task, trained.data)
    with pytest.raises(UserError, match=r"weights differ\. Remove that folder"):
        encode_images(other, images, NAMES, tmp_path / "codes")
    assert own_folder(trained, "query", NAMES, Views()) != own_folder(other, "query", NAMES, Views())
    assert own_folder(trained, "query", NAMES, Views()) != own_folder(trained, "query", NAMES, Views(flip=True))


def test_images_are_encoded_once(trained, images, monkeypatch):
    first = encode_once(trained, images, NAMES, "query")
    monkeypatch.setattr("modes.image_codes.Encoder", None)
    again = encode_once(trained, images, NAMES, "query")
    assert np.array_equal(first.values, again.values)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_the_blocks_whatever_each_found_missing(images, world_size):
    loaders = []
    for rank in range(world_size):
        missing = {number: range(number * 3, min(number * 3 + 3, 10)) for number in range(4) if number != rank + 7}
        data = ImagesToEncode(ImageViews(images, NAMES, 8, CentreCut(9)), missing, batch_size=2, num_workers=0)
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": world_size})()
        loaders.append([index for batch in data.predict_dataloader() for index in batch["index"].tolist()])
    assert sorted(index for loader in loaders for index in loader) == list(range(10))


def test_views_out_of_range_are_refused(images):
    with pytest.raises(UserError, match=r"the least zoom is 0\.865"):
        ImageViews(images, NAMES, 32, CentreCut(37), Views(zooms=(0.5,)))
    with pytest.raises(UserError, match="zooms is"):
        Views(zooms=())
