"""The door from outside: exit codes, what is printed, interruption and resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "run.py"
SHORT = ["trainer.accelerator=cpu", "trainer.max_epochs=2"]


def run(*arguments, cwd, **environment):
    variables = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, str(RUN), *arguments], cwd=cwd, env=variables, capture_output=True, text=True
    )


def run_directories(folder):
    return sorted(path.parent for path in Path(folder).rglob("result.json"))


def read(directory, name="result.json"):
    return json.loads((directory / name).read_text())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "greedyhash"),
        (["--cfg", "job"], "_target_: lit_modules.hashing.greedyhash.GreedyHash"),
        (["task=greedyhash", "--cfg", "job", "--package", "task"], "bits: 32"),
        (["--info", "defaults"], "task/greedyhash"),
    ],
)
def test_questions_are_answered_without_torch(arguments, expected, tmp_path):
    blocker = tmp_path / "torch"
    blocker.mkdir()
    (blocker / "__init__.py").write_text("raise ImportError('torch was imported')")
    done = run(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_completion_answers_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, str(RUN), "-sc", "query=bash"],
        cwd=tmp_path,
        env={**os.environ, "COMP_LINE": "python run.py task=gre", "COMP_POINT": "22"},
        capture_output=True,
        text=True,
    )
    assert "task=greedyhash" in done.stdout


def test_all_problems_are_printed_at_once_without_a_traceback(tmp_path):
    done = run("task=gredyhash", "task.bitz=3", "model=none", cwd=tmp_path)
    assert done.returncode == 2
    for expected in ("did you mean greedyhash", "task.bits", "tiny"):
        assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.pre_sign=tan", "did you mean tanh"),
        ("+task.alfa=1", "did you mean alpha"),
        ("data.num_workers=-1", "data.num_workers"),
        ("task.bits=0", "bits=0"),
    ],
)
def test_an_argument_that_does_not_fit_ends_before_training(override, expected, tmp_path):
    done = run(override, *SHORT, cwd=tmp_path)
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    (directory,) = run_directories(tmp_path)
    assert read(directory)["status"] == "failed"


def test_a_run_leaves_a_directory_that_can_be_tested_again(tmp_path):
    done = run(*SHORT, "task.bits=16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (directory,) = run_directories(tmp_path)
    result = read(directory)
    assert result["status"] == "completed"
    assert result["overrides"] == [*SHORT, "task.bits=16"]
    for name in (
        "config.yaml",
        "metrics.csv",
        "report.md",
        "plots/pr_curve.png",
        "plots/gallery.png",
        "checkpoints/last.ckpt",
    ):
        assert (directory / name).is_file(), name
    assert "mAP" in done.stdout
    moved = tmp_path / "moved (a, b) ü"
    directory.rename(moved)
    again = run("mode=test", f"run={moved}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (evaluation,) = run_directories(moved / "evaluations")
    assert read(evaluation)["metrics"] == {k: v for k, v in result["metrics"].items() if k.startswith("test/")}
    assert read(moved) == result
    refused = run("mode=train", f"run={moved}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "completed" in refused.stderr
    assert run("mode=test", f"run={moved}", "task=greedyhash", cwd=tmp_path).returncode == 2
    unfit = run("mode=test", f"run={moved}", "task.bits=24", cwd=tmp_path)
    assert unfit.returncode == 1
    assert "leave out the task.* and model.* values" in unfit.stderr


def test_no_run_directory_is_a_clear_error(tmp_path):
    done = run("mode=test", f"run={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "config.yaml" in done.stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_prints_the_command_that_resumes_it(number, exit_code, tmp_path):
    command = [sys.executable, str(RUN), "trainer.accelerator=cpu", "trainer.max_epochs=6"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code, errors
    (directory,) = run_directories(tmp_path)
    assert read(directory)["status"] == "interrupted"
    last_line = errors.strip().splitlines()[-1]
    assert last_line == read(directory)["resume_command"]
    resumed = run(*last_line.split()[2:], cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    result = read(directory)
    assert result["status"] == "completed"
    assert len(result["resumed_from"]) == 1


def test_a_sweep_runs_each_job_in_its_own_process_and_tells_the_truth(tmp_path):
    done = run("-m", "seed=0,1", "task.bits=8", "+task.alfa=1", cwd=tmp_path)
    assert done.returncode != 0
    assert [read(directory)["status"] for directory in run_directories(tmp_path)] == ["failed", "failed"]
