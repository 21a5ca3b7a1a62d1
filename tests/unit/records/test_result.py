import dataclasses
import errno
import json
import math
import os

import pytest

from records import environment
from records.errors import UserError
from records.notices import RunWarning
from records.result import STATUSES, Result, RunRecord, read_result, to_json
from records.run_directory import RunDirectory

DESCRIPTION = {
    "task": "greedyhash",
    "model": "tiny",
    "data": "digits",
    "mode": "train",
    "seed": 3,
    "overrides": ["task.bits=48"],
    "command": "python run.py task.bits=48",
    "resume_command": "python run.py run=outputs/a",
    "monitor": "val/map@all",
    "direction": "max",
}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture(autouse=True)
def no_git(monkeypatch):
    monkeypatch.setattr(environment, "git_state", lambda: {"commit": "0" * 40, "dirty": False})


def on_disk(run):
    return json.loads(run.result.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_every_step_is_on_disk_at_once(run):
    record = RunRecord.start(run, **DESCRIPTION)
    assert on_disk(run)["status"] == "running"
    record.describe(parameters={"total": 10, "trainable": 8}, data_sizes={"train": 5}, checkpoint_used="best")
    record.warn("weights are random")
    record.warn("weights are random")
    assert on_disk(run)["warnings"] == ["weights are random"]
    assert on_disk(run)["parameters"] == {"total": 10, "trainable": 8}
    with record.measure("training"):
        pass
    record.finish({"test/map@all": 0.5}, monitor_value=0.25)
    content = on_disk(run)
    assert content["status"] == "completed"
    assert content["metrics"] == {"test/map@all": 0.5}
    assert content["monitor"] == {"name": "val/map@all", "direction": "max", "value": 0.25}
    assert content["seconds"]["whole"] >= content["seconds"]["training"] >= 0


def test_file_begins_with_what_people_look_for(run):
    RunRecord.start(run, **DESCRIPTION)
    assert list(on_disk(run))[:4] == ["schema_version", "status", "reason", "task"]


def test_file_holds_every_documented_key(run):
    RunRecord.start(run, **DESCRIPTION)
    page = (environment.PROJECT_FOLDER / "docs" / "run-directory.md").read_text(encoding="utf-8")
    undocumented = [key for key in on_disk(run) if f"`{key}`" not in page]
    assert undocumented == []


def test_round_trip_keeps_everything(run):
    record = RunRecord.start(run, **DESCRIPTION)
    record.finish({"test/map@all": math.nan, "test/a.b": math.inf, "test/loss": -math.inf, "val/x": 0.1 + 0.2})
    content = on_disk(run)
    assert content["metrics"]["test/map@all"] is None
    assert content["non_finite"] == {
        "metrics.test/map@all": "nan",
        "metrics.test/a.b": "inf",
        "metrics.test/loss": "-inf",
    }
    restored = read_result(run.path)
    assert to_json(restored) == to_json(record.result)
    assert math.isnan(restored.metrics["test/map@all"])
    assert restored.metrics["test/a.b"] == math.inf
    assert restored.metrics["val/x"] == 0.1 + 0.2


def test_nan_monitor_survives(run):
    record = RunRecord.start(run, **DESCRIPTION)
    record.finish({}, monitor_value=math.nan)
    assert on_disk(run)["non_finite"] == {"monitor.value": "nan"}
    assert math.isnan(read_result(run.result).monitor["value"])


@pytest.mark.parametrize(("end", "status"), [("fail", "failed"), ("interrupt", "interrupted")])
def test_other_ends_carry_a_reason(run, end, status):
    record = RunRecord.start(run, **DESCRIPTION)
    getattr(record, end)("because")
    assert (on_disk(run)["status"], on_disk(run)["reason"]) == (status, "because")
    assert status in STATUSES


def test_time_is_kept_when_the_block_fails(run, monkeypatch):
    now = iter([0.0, 10.0, 12.5, 20.0])
    monkeypatch.setattr("records.result.time.monotonic", lambda: next(now))
    record = RunRecord.start(run, **DESCRIPTION)
    with pytest.raises(KeyError), record.measure("training"):
        raise KeyError("x")
    assert on_disk(run)["seconds"]["training"] == 2.5
    record.fail("x")
    assert on_disk(run)["seconds"]["whole"] == 20.0


def test_resuming_remembers_the_earlier_attempts(run):
    first = RunRecord.start(run, **DESCRIPTION)
    first.warn("old warning")
    first.interrupt()
    RunRecord.start(run, **DESCRIPTION)  # killed: nothing ends this record
    third = RunRecord.start(run, **DESCRIPTION)
    third.finish({"test/map@all": 1.0})
    attempts = on_disk(run)["resumed_from"]
    assert [attempt["status"] for attempt in attempts] == ["interrupted", "killed"]
    assert attempts[0]["warnings"] == ["old warning"]
    assert on_disk(run)["warnings"] == []


def test_reopened_record_keeps_status_metrics_and_time(run, monkeypatch):
    now = iter([0.0, 5.0, 100.0, 103.0])
    monkeypatch.setattr("records.result.time.monotonic", lambda: next(now))
    RunRecord.start(run, **DESCRIPTION).finish({"test/map@all": 0.5, "test/map@10": 0.6})
    record = RunRecord.reopen(run)
    assert record.result.status == "completed"
    record.finish({"test/map@all": 0.7})
    assert on_disk(run)["metrics"] == {"test/map@all": 0.7, "test/map@10": 0.6}
    assert on_disk(run)["seconds"]["whole"] == 8.0


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_other_processes_of_a_run_do_not_write(run, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    record = RunRecord.start(run, **DESCRIPTION)
    record.finish({"test/map@all": 0.5})
    assert record.result.status == "completed"
    assert not run.path.exists()
    monkeypatch.setenv(variable, "0")
    record.finish({"test/map@all": 0.5})
    assert on_disk(run)["status"] == "completed"


def test_unknown_detail_is_refused(run):
    record = RunRecord.start(run, **DESCRIPTION)
    with pytest.raises(KeyError, match="colour"):
        record.describe(colour="green")


def test_result_is_immutable(run):
    record = RunRecord.start(run, **DESCRIPTION)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.result.status = "completed"


def damaged(run, change):
    RunRecord.start(run, **DESCRIPTION)
    content = on_disk(run)
    change(content)
    run.result.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(schema_version=99), "schema_version=99"),
        (lambda c: c.pop("task"), r"missing: \['task'\]"),
        (lambda c: c.update(extra=1), r"unknown: \['extra'\]"),
        (lambda c: c.update(status="done"), "status='done'"),
        (lambda c: c.update(seed=float("nan")), "not strict JSON"),
    ],
)
def test_damaged_record_is_refused(run, change, text):
    damaged(run, change)
    with pytest.raises(UserError, match=text):
        read_result(run.result)


def test_missing_and_torn_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no run record"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"schema_version": 1, "sta')
    with pytest.raises(UserError, match="not strict JSON"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(UserError, match="not a run record"):
        read_result(tmp_path)


def test_no_key_of_the_record_is_left_unset():
    names = {entry.name for entry in dataclasses.fields(Result)}
    assert {"task", "metrics", "monitor", "git", "hardware", "versions", "resume_command"} <= names


def test_a_change_that_cannot_be_written_is_a_warning_and_comes_with_the_next(tmp_path, monkeypatch):
    record = RunRecord.start(RunDirectory(tmp_path), **DESCRIPTION)
    with monkeypatch.context() as disk:

        def refuse(path, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        disk.setattr("records.result.write_json", refuse)
        with pytest.warns(RunWarning, match=r"result\.json cannot be written \(No space left"):
            record.describe(num_classes=7)
        with pytest.raises(OSError, match="No space left"):
            RunRecord.start(RunDirectory(tmp_path), **DESCRIPTION)
    assert read_result(tmp_path).num_classes is None
    record.fail("the disk is full")
    assert (read_result(tmp_path).num_classes, read_result(tmp_path).status) == (7, "failed")
