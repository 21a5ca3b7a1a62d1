"""A cluster takes a job away: what it has done is kept, it is requeued once, and goes on in the same directory."""

import os
import signal
import threading
import time

import pytest
from faulty_runs import SHORT, Fault, record, run, start
from test_exact_resume import STEP, assert_bit_equal

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


class Hail:
    """SIGUSR1, and SIGTERM again and again while the run unwinds, as an impatient cluster sends them."""

    place, epoch, call, after = STEP, 1, 1, False

    def strike(self):
        def go_on():
            for _ in range(100):
                time.sleep(0.02)
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=go_on, daemon=True).start()
        os.kill(os.getpid(), signal.SIGUSR1)


def name_of(fault):
    return getattr(fault, "kind", "hail")


class Cluster:
    """SLURM as one job sees it: its variables, and a `scontrol` that writes down how it is called."""

    def __init__(self, folder, works):
        self.folder, self.calls = folder, folder / "calls"
        program = folder / "bin" / "scontrol"
        program.parent.mkdir()
        complaint = "" if works else "echo 'Requested operation is presently disabled' >&2; exit 1\n"
        program.write_text(f'#!/bin/sh\necho "$@" >> "{self.calls}"\n{complaint}')
        program.chmod(0o755)
        self.environment = {**SLURM, "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def start(self, fault=None, **variables):
        arguments = [*SHORT, f"paths.output_dir={self.folder / 'outputs'}"]
        return run(arguments, self.folder / "job", fault, {**self.environment, **variables})

    def requeued(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def directories(self):
        return [file.parent for file in (self.folder / "outputs").rglob("result.json")]


@pytest.fixture
def cluster(tmp_path):
    return lambda works=True: Cluster(tmp_path, works)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault("SIGUSR1", STEP, 1, 1), Fault("SIGTERM", STEP, 1, 1), Hail()], ids=name_of)
def test_a_preempted_job_is_requeued_once_and_goes_on_where_it_was(cluster, fault, tmp_path):
    slurm = cluster()
    ended = slurm.start(fault)
    assert ended.code == 143, ended.err
    assert slurm.requeued() == ["requeue 77"]
    assert "Job 77 is back in the queue." in ended.err
    (directory,) = slurm.directories()
    assert directory.name.startswith("slurm-77-")
    assert record(directory)["status"] == "interrupted"
    again = slurm.start(SLURM_RESTART_COUNT="1")
    assert again.code == 0, again.err
    assert slurm.directories() == [directory]
    assert "Going on from the last whole epoch" in again.out
    assert start(tmp_path / "straight").code == 0
    assert_bit_equal(tmp_path / "straight", directory)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["SUBMITIT_EXECUTOR", "SWEEP_JOB_RESTART_COUNT"])
def test_a_job_that_another_engine_requeues_does_not(cluster, other):
    slurm = cluster()
    ended = slurm.start(Fault("SIGUSR1", STEP, 1), **{other: "0"})
    assert (ended.code, slurm.requeued()) == (143, [])
    assert "goes on from there:\npython" in ended.err


@pytest.mark.slow
def test_a_refused_requeueing_is_told(cluster):
    ended = cluster(works=False).start(Fault("SIGTERM", STEP, 1))
    assert ended.code == 143
    assert "Job 77 could not be requeued: Requested operation is presently disabled" in ended.err


@pytest.mark.slow
def test_an_interrupted_or_failed_job_is_not_requeued(cluster):
    slurm = cluster()
    assert slurm.start(Fault("SIGINT", STEP, 1)).code == 130
    assert slurm.start(Fault("exception", STEP, 2), SLURM_RESTART_COUNT="1").code == 1
    assert slurm.requeued() == []


@pytest.mark.slow
def test_a_torchrun_job_finds_its_directory_again(tmp_path):
    job = {"TORCHELASTIC_RUN_ID": "job1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "GROUP_RANK": "0"}
    arguments = [*SHORT, f"paths.output_dir={tmp_path / 'outputs'}"]
    assert run(arguments, tmp_path / "job", Fault("SIGKILL", STEP, 2), job).code == -9
    again = run(arguments, tmp_path / "job", None, {**job, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert again.code == 0, again.err
    (directory,) = [file.parent for file in (tmp_path / "outputs").rglob("result.json")]
    assert directory.name.startswith("torchrun-job1-")
    assert [attempt["status"] for attempt in record(directory)["resumed_from"]] == ["killed"]
