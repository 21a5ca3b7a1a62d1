"""A preempted job goes back into the queue once, by its owner."""

import pytest

from launch.requeue import requeue


@pytest.fixture
def slurm(tmp_path):
    """SLURM as one job sees it: its variables, and a `scontrol` that writes down how it is called."""
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n')
    program.chmod(0o755)
    return {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:/usr/bin:/bin"}


def test_the_job_is_put_back(slurm, tmp_path):
    assert requeue(slurm) == "Job 77 is back in the queue."
    assert (tmp_path / "calls").read_text() == "requeue 77\n"


@pytest.mark.parametrize("other", ["SUBMITIT_EXECUTOR", "SWEEP_JOB_RESTART_COUNT"])
def test_the_job_of_another_engine_is_left_to_it(slurm, tmp_path, other):
    assert requeue({**slurm, other: "0"}) is None
    assert requeue({"PATH": slurm["PATH"]}) is None
    assert not (tmp_path / "calls").exists()


def test_a_refusal_is_told(slurm, tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'disabled' >&2\nexit 1\n")
    assert requeue(slurm) == "Job 77 could not be requeued: disabled"
