"""A search that has to encode first does so on all ranks, and the first one answers for all."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from launch.compose import compose_config
from modes import train
from retrieval.codes import unpack
from retrieval.index import open_index

HOUSE = Path(__file__).resolve().parents[2]
BITS = 12
RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def search(run, *overrides):
    done = subprocess.run(
        [sys.executable, str(HOUSE / "run.py"), "mode=search", f"run={run}", *RANKS, *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_own_database_is_encoded_and_added_to_on_two_ranks(tmp_path):
    run = tmp_path / "run"
    overrides = ["trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=8", f"task.bits={BITS}"]
    small = ["data.image_size=16", "model.width=8", "callbacks.progress=null"]
    assert train.run(compose_config([*overrides, *small, f"paths.run_dir={run}"]), []) == 0
    printed = search(run, "index=5", "k=4")
    assert printed.count("nearest to query 5") == 1
    stored = np.load(run / "codes" / "codes.npz")
    index = open_index(run / "codes" / "own" / "index")
    np.testing.assert_array_equal(index.codes, stored["database_codes"])
    different = unpack(stored["database_codes"], BITS) != unpack(stored["query_codes"], BITS)[5]
    expected = sorted(zip(different.sum(1).tolist(), range(len(different)), strict=True))[:4]
    (found,) = (run / "searches").glob("*/neighbours.csv")
    with found.open() as file:
        rows = [(int(row["distance"]), row["image"]) for row in csv.DictReader(file)]
    assert rows == [(distance, f"database/{place:04}") for distance, place in expected]
    for number in range(5):
        grey = np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "new" / f"{number}.png")
    printed = search(run, f"add={tmp_path / 'new'}")
    assert printed.count("The index of 1,443 images") == 1
    assert len(open_index(run / "codes" / "own" / "index")) == 1443
    assert list((run / "codes").glob("adding*")) == []
