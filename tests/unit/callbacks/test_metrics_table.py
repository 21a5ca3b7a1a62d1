import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from training_runs import Regression, loader, trainer

from callbacks.checkpoints import LastCheckpoint
from callbacks.metrics_table import MetricsTable, ResumedTable
from records.metrics_file import TIMING_COLUMNS, columns_of, read_rows, write_rows


@pytest.fixture
def table(tmp_path):
    return MetricsTable(str(tmp_path))


def test_one_row_per_step_and_growing_columns(table):
    table.log_metrics({"epoch": 0, "train/loss": 0.5}, step=1)
    table.log_metrics({"epoch": 0, "train/loss": 0.25}, step=2)
    table.log_metrics({"epoch": 0, "lr": 0.1}, step=2)
    table.log_metrics({"epoch": 1, "train/loss": 0.125}, step=4)
    assert table.path.read_text().splitlines()[0] == "epoch,step,train/loss,lr"
    assert read_rows(table.path) == [
        {"epoch": 0, "step": 1, "train/loss": 0.5},
        {"epoch": 0, "step": 2, "train/loss": 0.25, "lr": 0.1},
        {"epoch": 1, "step": 4, "train/loss": 0.125},
    ]


def test_file_is_whole_after_every_call(table):
    expected = []
    for step in range(1, 30):
        row = {"epoch": step // 5, "step": step, f"metric{step % 3}": step / 7}
        table.log_metrics({name: value for name, value in row.items() if name != "step"}, step=step)
        expected.append(row)
        assert read_rows(table.path) == expected


def test_validation_joins_the_row_of_its_step(table):
    table.log_metrics({"epoch": 0, "lr": 0.1}, step=2)
    table.log_metrics({"epoch": 0, "val/map@all": 0.5}, step=2)
    table.log_metrics({"epoch": 0, "train/loss": 1.5}, step=2)
    table.log_metrics({"epoch": 1, "val/map@all": 0.6}, step=5)
    assert read_rows(table.path) == [
        {"epoch": 0, "step": 2, "lr": 0.1, "val/map@all": 0.5, "train/loss": 1.5},
        {"epoch": 1, "step": 5, "val/map@all": 0.6},
    ]


def test_a_value_logged_twice_is_never_overwritten(table):
    table.log_metrics({"epoch": 0, "a": 1.0}, step=2)
    table.log_metrics({"epoch": 0, "a": 2.0}, step=2)
    assert [row["a"] for row in read_rows(table.path)] == [1.0, 2.0]


def test_join_after_a_new_process_and_with_old_columns(table, tmp_path):
    table.log_metrics({"epoch": 0, "val/score": 0.123456789012345}, step=2)
    table.log_metrics({"epoch": 0, "train/loss": 1.5}, step=2)
    table.log_metrics({"epoch": 1, "val/score": 0.9}, step=5)
    again = MetricsTable(str(tmp_path))
    again.log_metrics({"epoch": 1, "train/loss": 1.25}, step=5)
    again.log_metrics({"epoch": 2, "train/loss": math.nan}, step=8)
    first, second, third = read_rows(table.path)
    assert first == {"epoch": 0, "step": 2, "val/score": 0.123456789012345, "train/loss": 1.5}
    assert second == {"epoch": 1, "step": 5, "val/score": 0.9, "train/loss": 1.25}
    assert math.isnan(third["train/loss"])


def test_unfinished_line_of_a_killed_run_is_mended(table, tmp_path):
    table.log_metrics({"epoch": 0, "a": 1.0}, step=1)
    with table.path.open("a") as file:
        file.write("0,2,1.2")
    MetricsTable(str(tmp_path)).log_metrics({"epoch": 0, "a": 3.0}, step=3)
    assert [row["step"] for row in read_rows(table.path)] == [1, 3]


def test_keep_before(table):
    for step in range(5):
        table.log_metrics({"epoch": step, "train/loss": float(step)}, step=step)
    table.log_metrics({"epoch": 5, "test/map@all": 0.5}, step=2)
    assert table.keep_before(3) == 3
    assert [row["step"] for row in read_rows(table.path)] == [0, 1, 2]
    table.log_metrics({"epoch": 3, "train/loss": 4.5}, step=3)
    assert read_rows(table.path)[-1] == {"epoch": 3, "step": 3, "train/loss": 4.5}
    assert "test/map@all" not in table.path.read_text()


def test_nothing_to_keep_is_no_error(table):
    assert table.keep_before(5) == 0
    assert not table.path.exists()


def test_only_rank_zero_writes(table, monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    table.log_metrics({"epoch": 0, "a": 1.0}, step=1)
    table.keep_before(0)
    assert not table.path.exists()


def test_rows_of_a_real_run(tmp_path):
    run = trainer(3, [ResumedTable()], MetricsTable(str(tmp_path)), enable_checkpointing=False)
    run.fit(Regression((0.1, 0.2, 0.3)), loader(), loader(16))
    run.test(run.lightning_module, loader(16), verbose=False)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 2), (1, 5), (2, 8), (3, 9)]
    assert [set(row) for row in rows[:3]] == [{"epoch", "step", "val/loss", "val/score", "train/loss"}] * 3
    assert set(rows[3]) == {"epoch", "step", "test/loss"}


def test_new_run_in_the_same_folder_starts_a_new_table(tmp_path):
    for _ in range(2):
        run = trainer(2, [ResumedTable()], MetricsTable(str(tmp_path)), enable_checkpointing=False)
        run.fit(Regression(), loader(), loader(16))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == [2, 5]


def test_appending_does_not_rewrite(table, monkeypatch):
    table.log_metrics({"epoch": 0, "a": 1.0}, step=1)
    monkeypatch.setattr(os, "replace", None)
    monkeypatch.setattr("callbacks.metrics_table.write_rows", None)
    for step in range(2, 50):
        table.log_metrics({"epoch": 0, "a": 1.0}, step=step)
    assert len(read_rows(table.path)) == 49


def test_timing_columns_are_those_of_the_throughput():
    assert TIMING_COLUMNS == ("train/images_per_second", "train/data_wait")


def run_with_checkpoint(folder, epochs, checkpoint=None):
    callbacks = [ResumedTable(), LastCheckpoint(str(folder))]
    run = trainer(epochs, callbacks, MetricsTable(str(folder)))
    run.fit(Regression((0.1, 0.2, 0.3, 0.4)), loader(), loader(16), ckpt_path=checkpoint, weights_only=True)


@pytest.mark.parametrize("lost", ["means", "row", "table"])
def test_what_a_killed_run_did_not_write_of_its_last_epoch_comes_from_the_checkpoint(tmp_path, lost):
    run_with_checkpoint(tmp_path / "straight", 3)
    run_with_checkpoint(tmp_path / "killed", 2)
    table = tmp_path / "killed" / "metrics.csv"
    *before, last = read_rows(table)
    if lost == "means":
        last = {name: value for name, value in last.items() if not name.startswith("train/")}
    write_rows(table, columns_of([*before, last]), [*before, last] if lost == "means" else before)
    if lost == "table":
        table.unlink()
    run_with_checkpoint(tmp_path / "killed", 3, tmp_path / "killed" / "last.ckpt")
    rows = read_rows(tmp_path / "straight" / "metrics.csv")
    assert read_rows(table) == (rows[1:] if lost == "table" else rows)


def test_a_run_that_was_complete_keeps_its_table_and_gets_its_means(tmp_path):
    run_with_checkpoint(tmp_path, 2)
    table = tmp_path / "metrics.csv"
    rows = read_rows(table)
    MetricsTable(str(tmp_path)).log_metrics({"epoch": 2, "test/loss": 0.5}, step=6)
    run_with_checkpoint(tmp_path, 2, tmp_path / "last.ckpt")
    assert read_rows(table) == rows


def test_other_loggers_are_told_what_the_table_was_not(tmp_path):
    run_with_checkpoint(tmp_path, 2)
    rows = read_rows(tmp_path / "metrics.csv")
    del rows[-1]["train/loss"]
    write_rows(tmp_path / "metrics.csv", columns_of(rows), rows)
    told = []
    other = SimpleNamespace(log_metrics=lambda values, step: told.append((step, dict(values))))
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    resumed = SimpleNamespace(state=state, loggers=[MetricsTable(str(tmp_path)), other])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for _ in range(2):
        ResumedTable().on_load_checkpoint(resumed, None, checkpoint)
    assert [(step, set(values)) for step, values in told] == [(5, {"epoch", "train/loss"})]


class StruckAtLine:
    """Raise KeyboardInterrupt at the n-th line that metrics_table.py runs, as Ctrl-C may between any two."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.endswith("metrics_table.py"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def __enter__(self):
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


@pytest.mark.parametrize("metrics", [{"a": 0.5}, {"a": 0.5, "b": 1.5}], ids=["known column", "new column"])
@pytest.mark.parametrize("step", [3, 4], ids=["joins a row", "new row"])
def test_an_interruption_at_any_line_leaves_a_table_that_goes_on(tmp_path, metrics, step):
    first, later = {"epoch": 0, "step": 2, "a": 0.25}, {"epoch": 2, "step": 9, "a": 0.125, "c": 3.0}
    latest = {"epoch": 1, "step": 3, "lr": 0.1}
    for line in range(1, 1000):
        table = MetricsTable(str(tmp_path / str(line)))
        table.path.parent.mkdir()
        for row in (first, latest):
            table.log_metrics({"epoch": row["epoch"], **row}, step=row["step"])
        struck = StruckAtLine(line)
        try:
            with struck:
                table.log_metrics({"epoch": 1, **metrics}, step=step)
        except KeyboardInterrupt:
            pass
        table.finalize("interrupted")
        table.log_metrics(later, step=9)
        joined = [{**latest, **metrics}] if step == 3 else [latest, {"epoch": 1, "step": 4, **metrics}]
        whole, without = [first, *joined, later], [first, latest, later]
        assert read_rows(table.path) in (whole, without), line
        if struck.left > 0:
            break
    assert read_rows(table.path) == whole
    assert line > 10
