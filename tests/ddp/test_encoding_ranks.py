"""Images encoded on 1, 2 and 3 ranks: each by one of them, and to the last digit the same."""

import json
import os
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits

from callbacks import encoding_writer
from launch.compose import compose_config
from modes import build
from modes.image_codes import TrainedRun, encode_images
from modes.train import quieten_lightning

RANKS = 3
NAMES = tuple(f"{number:02}.png" for number in range(10))
BROKEN = NAMES[4]


def write_images(folder):
    for name, pixels in zip(NAMES, load_digits().images, strict=False):
        Image.fromarray(np.rint(np.kron(pixels, np.ones((5, 5))) * (255 / 16)).astype(np.uint8)).save(folder / name)
    (folder / BROKEN).write_bytes(b"no image")


def encode(folder, target, world_size):
    """Encode the images in blocks of three; return which blocks this rank has written."""
    strategy = "ddp" if world_size > 1 else "auto"
    overrides = [
        "trainer=cpu", f"trainer.devices={world_size}", f"trainer.strategy={strategy}", "callbacks.progress=null",
        f"paths.run_dir='{folder}'", f"run='{folder}'", "data.eval_batch_size=2",
    ]  # fmt: skip
    settings = OmegaConf.to_container(compose_config(overrides), resolve=True)
    torch.manual_seed(0)
    backbone = build.build_backbone(settings)
    data = build.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data).eval()
    written, write = [], encoding_writer.write_block
    encoding_writer.write_block = lambda place, number, block: (written.append(number), write(place, number, block))
    try:
        trained = TrainedRun(settings, Path("last.ckpt"), "0" * 64, task, data)
        found = encode_images(trained, folder, NAMES, target, block_size=3)
    finally:
        encoding_writer.write_block = write
    assert list(found.unreadable) == [BROKEN]
    return written


def run_rank(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    quieten_lightning()
    for world_size in (2, 3):
        if rank >= world_size:
            continue
        # Lightning takes a process group that exists, and starts no processes where the rank is given
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world_size)}
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting_{world_size}", rank=rank, world_size=world_size,
            timeout=timedelta(seconds=120),
        )  # fmt: skip
        written = encode(folder, folder / f"codes_{world_size}", world_size)
        (folder / f"written_{world_size}_{rank}.json").write_text(json.dumps(written))
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_images(folder)
    mp.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return folder


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.filterwarnings("ignore:1 of 10 images cannot be read")
def test_ranks_encode_each_image_once_and_the_same(ranks, tmp_path, world_size):
    written = [json.loads((ranks / f"written_{world_size}_{rank}.json").read_text()) for rank in range(world_size)]
    assert written == [list(range(rank, 4, world_size)) for rank in range(world_size)]
    assert encode(ranks, tmp_path / "codes", 1) == [0, 1, 2, 3]
    for name in ("codes.npy", "values.npy", "features.npy", "names.txt", "unreadable.csv"):
        assert (ranks / f"codes_{world_size}" / name).read_bytes() == (tmp_path / "codes" / name).read_bytes(), name
