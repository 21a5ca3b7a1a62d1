"""A feature bank filled by several processes, and by one that was killed in the middle: to the byte that of one."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits

from datamodules.coop_splits import FewShotImages
from datamodules.encoded import encoded_images
from datamodules.encoded.feature_bank import FeatureBank
from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder

SHARD, PER_CLASS = 4, {"train": 9, "test": 5}
PROCESSES = get_context("spawn")


class CountingEncoder(FrozenEncoder):
    """Counts its images, and kills its process once it has been asked for more than `lives`."""

    def __init__(self, backbone, lives=None):
        super().__init__(backbone)
        self.images, self.lives = 0, lives

    def encode_images(self, images):
        self.images += len(images)
        if self.lives is not None and self.images > self.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(images)


def write_folders(root):
    digits = load_digits()
    for part, count in PER_CLASS.items():
        for label in (3, 8):
            chosen = digits.images[digits.target == label][:count] if part == "train" else digits.images[-count:]
            for number, pixels in enumerate(chosen):
                file = root / part / str(label) / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(file)


def small_bank(root, name, key, count):
    return FeatureBank(Path(root) / name, key, count, SHARD)


def encode(root, bank, lives=None):
    """Read the few-shot data of the folders; return how many images this process has encoded."""
    torch.set_num_threads(1)
    encoded_images.open_bank = small_bank
    torch.manual_seed(0)
    encoder = CountingEncoder(build_backbone("own", "tiny", False, image_size=16, width=4).eval(), lives)
    data = FewShotImages(
        dataset="folder", root=root, shots=2, seed=0, validation="none", bank_dir=bank, encode_batch_size=2
    )
    data.attach_encoder(encoder)
    data.setup()
    np.save(bank.with_suffix(f".{os.environ.get('RANK', '0')}.npy"), data.support_features.numpy())
    return encoder.images


def work(rank, world_size, root, bank, lives, images):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    images.put(encode(root, bank, lives))


def run_processes(world_size, root, bank, lives=None):
    """Let processes encode together; return their exit codes and how many images each encoded."""
    images = PROCESSES.Queue()
    jobs = [
        PROCESSES.Process(target=work, args=(rank, world_size, root, bank, lives, images)) for rank in range(world_size)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(240)
    codes = [job.exitcode for job in jobs]
    return codes, [images.get(timeout=10) for code in codes if code == 0]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The folders, the files of the bank that one process fills, and the support features it reads of it."""
    folder = tmp_path_factory.mktemp("bank")
    write_folders(folder / "images")
    codes, images = run_processes(1, folder / "images", folder / "alone")
    assert (codes, images) == ([0], [28])
    return folder


def content(bank):
    """Return every file of a bank: shards as their features and metadata, whose order in a file is left open."""
    found = {}
    for file in sorted(path for path in bank.rglob("*") if path.is_file()):
        name = file.relative_to(bank).as_posix()
        if file.suffix != ".safetensors":
            found[name] = file.read_bytes()
            continue
        with safe_open(file, framework="pt") as shard:
            found[name] = shard.metadata(), shard.get_tensor("features").numpy().tobytes()
    return found


def test_two_processes_share_the_shards_of_a_bank_that_equals_that_of_one(material, tmp_path):
    codes, images = run_processes(2, material / "images", tmp_path / "shared")
    assert codes == [0, 0]
    assert sum(images) == 28
    assert min(images) >= 8
    assert content(tmp_path / "shared") == content(material / "alone")
    wanted = np.load(material / "alone.0.npy")
    assert all(np.array_equal(np.load(tmp_path / f"shared.{rank}.npy"), wanted) for rank in range(2))


def test_an_encoding_killed_in_the_middle_goes_on_with_the_first_missing_shard(material, tmp_path):
    bank = tmp_path / "killed"
    codes, _ = run_processes(1, material / "images", bank, lives=9)
    assert codes == [-signal.SIGKILL]
    kept = len(list(bank.rglob("shard-*")))
    assert kept == 2
    codes, images = run_processes(1, material / "images", bank)
    assert (codes, images) == ([0], [28 - kept * SHARD])
    assert content(bank) == content(material / "alone")
