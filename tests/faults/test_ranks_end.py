"""A run on two ranks, stopped or at fault: both processes end, the record is true, and the run goes on exactly."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from faulty_runs import RUN, SHORT, record
from test_exact_resume import assert_bit_equal

RANKS = ["trainer.strategy=ddp", "trainer.devices=2", "data.batch_size=32"]


def ranks_of(directory):
    """Return the numbers of the processes that were started for a run directory."""
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in done.stdout.splitlines() if f"{directory}" in line and str(RUN) in line]


def launch(*arguments):
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(RUN), *arguments],
        env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process, directory):
    try:
        _, errors = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while ranks_of(directory):
        assert time.monotonic() < deadline, "a rank lives on"
        time.sleep(0.2)
    return process.returncode, errors


def run_whole(directory, *overrides):
    return ended(launch(*SHORT, *RANKS, *overrides, f"hydra.run.dir={directory}"), directory)


@pytest.mark.slow
def test_a_terminated_run_ends_both_ranks_and_resumes_exactly(tmp_path):
    assert run_whole(tmp_path / "straight")[0] == 0
    directory = tmp_path / "run"
    process = launch(*SHORT, *RANKS, f"hydra.run.dir={directory}")
    deadline = time.monotonic() + 120
    while not (directory / "checkpoints" / "last.ckpt").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process, directory)
    assert code == 143, errors
    assert record(directory)["status"] == "interrupted"
    line = record(directory)["resume_command"]
    assert line in errors
    code, errors = ended(launch(*shlex.split(line)[2:]), directory)
    assert code == 0, errors
    assert_bit_equal(tmp_path / "straight", directory)


@pytest.mark.slow
def test_a_diverged_run_ends_both_ranks_and_keeps_its_checkpoint(tmp_path):
    code, errors = run_whole(tmp_path / "run", "optim.lr=1e30", "schedule=constant")
    assert code == 1, errors
    assert "became infinite or NaN" in errors
    assert record(tmp_path / "run")["status"] == "failed"
    assert (tmp_path / "run" / "nonfinite.json").is_file()
