"""Sweeps by other engines: Optuna, submitit's local executor, a local Ray. One job of each is killed, and resumed.

They need the extras `sweep` and `ray`.
"""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = Path(__file__).resolve().parents[2] / "run.py"
CHEAP = [
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "task.bits=8",
]
# Python imports a module of this name before anything else
KILLS_JOB_1 = """
import os, sys
if any(word.startswith("hydra.run.dir=") and word.rstrip('"').endswith("/1") for word in sys.orig_argv):
    os.kill(os.getpid(), 9)
"""


def run(*arguments, cwd, faults=None):
    paths = [str(faults)] if faults is not None else []
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    return subprocess.run(
        [sys.executable, str(RUN), *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def results(sweep, jobs):
    return [json.loads((sweep / str(number) / "result.json").read_text()) for number in range(jobs)]


def table(sweep):
    return list(csv.DictReader((sweep / "summary.csv").open()))


def run_with_one_killed_job(folder, *arguments, jobs):
    """Run a sweep whose job 1 is killed at its start, then what its last line says; return the records of both."""
    sweep = folder / "sweep"
    faults = folder / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(KILLS_JOB_1)
    done = run(*arguments, *CHEAP, f"hydra.sweep.dir={sweep}", cwd=folder, faults=faults)
    assert done.returncode == 1, done.stderr
    before = results(sweep, jobs)
    assert [one["status"] for one in before] == ["completed", "failed", *["completed"] * (jobs - 2)]
    assert before[1]["reason"].startswith("killed by signal 9 (SIGKILL)")
    assert sum(int(row["completed"]) for row in table(sweep)) == jobs - 1
    assert "killed by signal 9" in (sweep / "summary.md").read_text()
    resume = done.stderr.strip().splitlines()[-1]
    assert resume == f"python run.py {shlex.quote(f'sweep.resume={sweep}')}"
    again = run(*shlex.split(resume)[2:], cwd=folder)
    assert again.returncode == 0, again.stderr
    after = results(sweep, jobs)
    assert [one["status"] for one in after] == ["completed"] * jobs
    assert [one for number, one in enumerate(after) if number != 1] == [
        one for number, one in enumerate(before) if number != 1
    ], "what was completed is not run again"
    assert sum(int(row["completed"]) for row in table(sweep)) == jobs
    return sweep, before, after


def test_optuna_searches_by_the_monitored_value_and_outlives_failed_trials(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")
    arguments = ["sweep=optuna", "hydra.sweeper.n_trials=3", "task.power=choice(2,3)"]
    sweep, _, after = run_with_one_killed_job(tmp_path, *arguments, jobs=3)
    best = max(one["monitor"]["value"] for one in after)
    assert f"best_value: {best}" in (sweep / "optimization_results.yaml").read_text()


def test_optuna_without_one_good_trial_fails_and_says_so(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")
    sweep = tmp_path / "sweep"
    arguments = ["sweep=optuna", "hydra.sweeper.n_trials=2", "sweep.slots=2", *CHEAP, "task.bits=-1"]
    done = run(*arguments, f"hydra.sweep.dir={sweep}", cwd=tmp_path)
    assert done.returncode == 1
    assert [one["status"] for one in results(sweep, 2)] == ["failed", "failed"]
    assert "bits" in (sweep / "summary.md").read_text()


def test_submitit_runs_the_same_jobs_from_any_folder(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `sweep`")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
    run_with_one_killed_job(tmp_path, "-m", "seed=0,1", *launcher, jobs=2)


def test_ray_runs_the_same_jobs(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra `ray`")
    run_with_one_killed_job(tmp_path, "sweep=ray", "seed=0,1", jobs=2)
