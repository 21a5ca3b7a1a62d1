"""Distributed runs as jobs of a sweep: one directory, one table and one result each; no rank waits for ever."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# a rank that waits for ever is a test that fails
pytestmark = pytest.mark.timeout(600)

PROJECT = Path(__file__).resolve().parents[2]
TWO_RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1", "task.bits=8"]
FEW = [
    "data.batch_size=64",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
]

# Python imports a module of this name before anything else; ranks that Lightning starts are told their number
FAILING_RANK = """
import os
if os.environ.get("LOCAL_RANK", "0") == "{rank}" and "seed=0" in "\\0".join(__import__("sys").orig_argv).split("\\0"):
    import callbacks.epoch_seed
    def fail(self, trainer, pl_module):
        {how}
    callbacks.epoch_seed.EpochSeed.on_train_epoch_start = fail
"""


def sweep(folder, *arguments, faults=None):
    paths = [str(path) for path in (faults, PROJECT) if path is not None]
    command = [sys.executable, str(PROJECT / "run.py"), "-m", "seed=0,1", *TWO_RANKS, *FEW, *arguments]
    return subprocess.run(
        [*command, f"hydra.sweep.dir={folder}"],
        cwd=folder.parent,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def result(directory):
    return json.loads((directory / "result.json").read_text())


def test_each_job_has_one_directory_one_table_and_one_result(tmp_path):
    folder = tmp_path / "sweep"
    done = sweep(folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("result.json")) == ["0", "1"]
    assert len(list(tmp_path.rglob("metrics.csv"))) == 2
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    for number in ("0", "1"):
        record = result(folder / number)
        assert (record["status"], record["seed"], record["resumed_from"]) == ("completed", int(number), [])
        rows = list(csv.DictReader((folder / number / "metrics.csv").open()))
        assert len([row for row in rows if row["train/loss"]]) == 1, "one logger writes"
        assert len([row for row in rows if row["test/map@all"]]) == 1
    (row,) = csv.DictReader((folder / "summary.csv").open())
    assert (row["jobs"], row["completed"]) == ("2", "2")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ['raise RuntimeError("a fault")', "os.kill(os.getpid(), 9)"], ids=["error", "kill -9"])
def test_a_rank_that_fails_ends_its_job_and_the_next_one_runs(rank, how, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FAILING_RANK.format(rank=rank, how=how))
    folder = tmp_path / "sweep"
    done = sweep(folder, faults=tmp_path)
    assert done.returncode == 1, done.stderr
    failed, whole = result(folder / "0"), result(folder / "1")
    assert failed["status"] == "failed"
    if rank == 0:
        assert failed["reason"].startswith(
            "RuntimeError: a fault" if "raise" in how else "killed by signal 9 (SIGKILL)"
        )
    assert failed["reason"], "the first rank records that it has lost the other one"
    assert whole["status"] == "completed"
