"""Every task, alone on the command line, trains and tests; cut off after an epoch and resumed it ends bit-equal."""

import math

import pytest
from task_runs import TASKS, assert_equal_runs, composed, run_and_killed_run, short_run, skip_without_extra

from records.result import read_result


@pytest.mark.parametrize("task", TASKS)
def test_every_task_names_its_metric_and_its_data(task):
    config = composed((f"task={task}",))
    assert config.task.name == task
    assert config.task.direction in ("max", "min")
    assert config.task.needs
    assert set(config.task.needs) <= set(config.data.provides)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_tests_and_resumes_exactly(task, tmp_path, monkeypatch):
    skip_without_extra(task)
    straight, killed = run_and_killed_run(monkeypatch, tmp_path, short_run(task))
    result = read_result(straight)
    assert result.status == "completed"
    monitored = result.metrics[f"test/{composed((f'task={task}',)).task.monitor}"]
    assert math.isfinite(monitored)
    assert_equal_runs(straight, killed)
