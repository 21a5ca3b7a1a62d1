"""Where a run lies when several processes start it."""

import pytest

from launch.run_stamp import is_restarted, run_stamp
from records.errors import UserError

SLURM = {"SLURM_JOB_ID": "4711"}


def test_one_process_goes_by_the_clock():
    assert run_stamp(["seed=1"], {}) != run_stamp(["seed=1"], {})


@pytest.mark.parametrize("environment", [SLURM, {"TORCHELASTIC_RUN_ID": "4711"}])
def test_ranks_and_requeues_of_a_job_agree_and_its_commands_differ(environment):
    first = run_stamp(["seed=1"], {**environment, "RANK": "0"})
    assert first == run_stamp(["seed=1"], {**environment, "RANK": "1", "SLURM_RESTART_COUNT": "1"})
    assert first != run_stamp(["seed=2"], environment)
    assert "4711" in first


def test_torchrun_without_an_id_asks_for_a_directory():
    with pytest.raises(UserError, match=r"hydra\.run\.dir=DIR"):
        run_stamp([], {"TORCHELASTIC_RUN_ID": "none"})


@pytest.mark.parametrize(
    ("count", "restarted"),
    [
        ({}, False),
        ({"SLURM_RESTART_COUNT": "0"}, False),
        ({"SLURM_RESTART_COUNT": "2"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, True),
    ],
)
def test_a_restart_is_recognised(count, restarted):
    assert is_restarted(count) is restarted
