"""Sweeps from outside, with real jobs: killed, interrupted, resumed, in slots, over seeds and folds."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "run.py"
CHEAP = ["trainer.accelerator=cpu", "data.batch_size=256", "task.bits=8"]


def command(*arguments):
    return [sys.executable, str(RUN), *arguments]


def environment(**changes):
    return {**os.environ, "COLUMNS": "200", **changes}


def run(*arguments, cwd, **changes):
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(**changes), capture_output=True, text=True)


def result(directory):
    return json.loads((directory / "result.json").read_text())


def table(sweep):
    return list(csv.DictReader((sweep / "summary.csv").open()))


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.05)


def child_of(directory):
    """Return the number of the process that runs the job in `directory`."""
    wanted = f'hydra.run.dir="{directory}"'.encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process runs in {directory}")


def rows_of(directory):
    table = directory / "metrics.csv"
    rows = csv.DictReader(table.read_text().splitlines()) if table.is_file() else []
    return [{"train/loss": "", **row} for row in rows]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the job to kill in /proc")
def test_a_killed_job_ends_nothing_and_resuming_runs_only_it(tmp_path):
    sweep = tmp_path / "a sweep"
    arguments = ["-m", "seed=0,1", "trainer.max_epochs=5", *CHEAP, "sweep.slots=2", f"hydra.sweep.dir={sweep}"]
    parent = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # an epoch's row follows its checkpoint
    wait_for(lambda: any(row["train/loss"] for row in rows_of(sweep / "0")))
    assert (sweep / "0" / "checkpoints" / "last.ckpt").is_file()
    os.kill(child_of(sweep / "0"), signal.SIGKILL)
    _, errors = parent.communicate(timeout=200)
    assert parent.returncode == 1, errors
    killed, whole = result(sweep / "0"), result(sweep / "1")
    assert (killed["status"], killed["reason"]) == ("failed", "killed by signal 9 (SIGKILL)")
    assert whole["status"] == "completed"
    assert "killed by signal 9" in (sweep / "summary.md").read_text()
    resume = errors.strip().splitlines()[-1]
    assert resume == f"python run.py {shlex.quote(f'sweep.resume={sweep}')}"
    again = run(*shlex.split(resume)[2:], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert result(sweep / "1") == whole
    resumed = result(sweep / "0")
    assert (resumed["status"], len(resumed["resumed_from"])) == ("completed", 1)
    epochs = [row["epoch"] for row in rows_of(sweep / "0") if row["train/loss"]]
    assert epochs == [str(epoch) for epoch in range(5)], "it went on from its checkpoint"
    (row,) = table(sweep)
    assert (row["jobs"], row["completed"], row["failures"]) == ("2", "2", "")
    mean = (whole["metrics"]["test/map@all"] + resumed["metrics"]["test/map@all"]) / 2
    assert float(row["test/map@all mean"]) == pytest.approx(mean, rel=1e-15)


def test_ctrl_c_lets_the_job_save_and_prints_what_goes_on_with_the_sweep(tmp_path):
    sweep = tmp_path / "sweep"
    arguments = ["-m", "seed=0,1", "trainer.max_epochs=4", *CHEAP, f"hydra.sweep.dir={sweep}"]
    parent = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for((sweep / "0" / "checkpoints" / "last.ckpt").is_file)
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=100)
    assert parent.returncode == 130, errors
    assert result(sweep / "0")["status"] == "interrupted"
    assert not (sweep / "1").exists()
    assert "interrupted" in (sweep / "summary.md").read_text()
    assert errors.strip().splitlines()[-1] == f"python run.py sweep.resume={sweep}"


@pytest.mark.slow
def test_folds_are_validated_one_by_one_in_slots(tmp_path):
    sweep = tmp_path / "sweep"
    done = run(
        "sweep=folds",
        "data.fold=0,1",
        "trainer.max_epochs=1",
        *CHEAP,
        "sweep.slots=2",
        f"hydra.sweep.dir={sweep}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2 jobs done" in done.stdout
    sizes = [result(sweep / name)["data_sizes"] for name in ("0", "1")]
    assert [size["val_query"] for size in sizes] == [288, 288]
    (row,) = table(sweep)
    assert row["completed"] == "2"
    assert float(row["best val/map@all ci95"]) > 0


@pytest.mark.slow
def test_seeds_of_two_settings_are_two_means(tmp_path):
    sweep = tmp_path / "sweep"
    arguments = ["sweep=seeds", "seed=0,1", "task=classify,csq", "trainer.max_epochs=1", *CHEAP, "sweep.slots=2"]
    done = run(*arguments, f"hydra.sweep.dir={sweep}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(sweep)
    assert [(row["task"], row["jobs"], row["completed"]) for row in rows] == [("classify", "2", "2"), ("csq", "2", "2")]
    assert all(float(row["test/map@all ci95"]) > 0 for row in rows)
    assert {result(sweep / str(number))["seed"] for number in range(4)} == {0, 1}


@pytest.mark.slow
def test_a_preempted_sweep_is_requeued_once_and_goes_on_in_its_directory(tmp_path):
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n')
    program.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "sweep", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{program.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    arguments = ["-m", "seed=0,1", "trainer.max_epochs=3", *CHEAP, f"paths.output_dir={tmp_path / 'outputs'}"]
    parent = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(**slurm),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    sweeps = tmp_path / "outputs" / "sweeps"
    wait_for(lambda: any(sweeps.glob("*/0/checkpoints/last.ckpt")))
    parent.send_signal(signal.SIGUSR1)
    _, errors = parent.communicate(timeout=100)
    assert parent.returncode == 143, errors
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    again = run(*arguments, cwd=tmp_path, **slurm, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    (sweep,) = sweeps.iterdir()
    assert sweep.name.startswith("slurm-77-")
    assert [result(sweep / job)["status"] for job in ("0", "1")] == ["completed", "completed"]
    assert len(result(sweep / "0")["resumed_from"]) == 1
