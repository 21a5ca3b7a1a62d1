"""How far a sweep is, counted from its records."""

import dataclasses

import pytest

from launch.sweep_progress import progress_of, say_of_job
from records.result import Result
from records.sweep_summary import SweepJob


def job(name, status, started="2030", seconds=10.0):
    result = Result("t", "m", "d", "train", 0, [f"seed={name}"], "c", "r", started, status=status)
    return SweepJob(name, dataclasses.replace(result, seconds={"training": 0.0, "testing": 0.0, "whole": seconds}))


def test_jobs_are_counted_by_how_they_stand(make_plan):
    plan = make_plan(started="2029", expected=9, slots=2)
    jobs = [
        job("0", "completed", seconds=100.0),
        job("1", "completed", "2020", seconds=5000.0),
        job("2", "failed"),
        job("3", "interrupted"),
        job("4", "running"),
        job("5", "running", "2020"),
        job("6", "failed", "2020"),
    ]
    progress = progress_of(plan, jobs)
    assert (progress.completed, progress.failed, progress.running) == (2, 2, 1)
    assert progress.seconds_left == 5 * 100.0 / 2
    assert str(progress) == "2 of 9 jobs done, 1 running, 2 failed, about 4 min left"


@pytest.mark.parametrize(("expected", "jobs"), [(None, [job("0", "completed")]), (3, [job("0", "running")])])
def test_no_time_is_promised_where_none_can_be_known(make_plan, expected, jobs):
    assert progress_of(make_plan(started="2029", expected=expected), jobs).seconds_left is None


def test_off_a_terminal_a_plain_line_is_printed(make_plan, capsys):
    say_of_job(make_plan(expected=2), "job 0 starts", running=1)
    assert capsys.readouterr().out == "sweep: job 0 starts | 0 of 2 jobs done, 1 running, 0 failed\n"
