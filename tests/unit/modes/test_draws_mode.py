"""mode=draws: each draw is what its own run gives, is told with mean and interval, and pairs with other runs."""

import json
import warnings

import pytest

from launch.compose import compose_config
from modes import draws, train
from modes.test import checkpoint_of
from records.comparison import compare, read_runs
from records.draws import read_draws
from records.errors import UserError
from records.result import read_result
from records.run_directory import RunDirectory
from records.sweep_summary import draws_of, read_jobs, summarise, write_summary

FEW_DRAWS = 3
QUICK = {
    "gda": [],
    "tip_adapter_f": ["task.epochs=2", "task.alpha_steps=20", "task.beta_steps=4"],
    "inmap": ["task.iterations=30"],
}


def run(mode, folder, overrides):
    # no bootstrap of each draw's test part: it is the metric's affair, and slow
    common = ["trainer=cpu", "callbacks.progress=null", "metric.bootstrap=20", f"paths.run_dir='{folder}'"]
    config = compose_config([f"mode={mode.__name__.rpartition('.')[2]}", *common, *overrides])
    assert mode.run(config, overrides=overrides) == 0
    return RunDirectory(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the runs over draws of each task, made once."""
    folder = tmp_path_factory.mktemp("draws")
    return {
        task: run(draws, folder / task, [f"task={task}", f"draws={FEW_DRAWS}", "seed=1", *quick])
        for task, quick in QUICK.items()
    }


@pytest.fixture(scope="module")
def runs_alone(tmp_path_factory):
    """Return the run of the draw of seed 2 alone, of each task."""
    folder = tmp_path_factory.mktemp("alone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {task: run(train, folder / task, [f"task={task}", "seed=2", *quick]) for task, quick in QUICK.items()}


@pytest.mark.parametrize("task", QUICK)
def test_each_draw_is_what_its_own_run_gives(runs, runs_alone, task):
    alone = read_result(runs_alone[task].result)
    draw = read_draws(runs[task].draws)[1]
    assert (draw.seed, draw.fingerprint) == (2, alone.fingerprint)
    assert draw.metrics.keys() == alone.metrics.keys()
    judged = [name for name in draw.metrics if not name.startswith("train/")]
    assert {name: draw.metrics[name] for name in judged} == pytest.approx(
        {name: alone.metrics[name] for name in judged}, abs=1e-6
    )
    # a fit is in float32, and its norms have seven digits
    assert dict(draw.metrics) == pytest.approx(alone.metrics, rel=1e-5)


def test_the_record_has_means_interval_number_and_protocol(runs):
    result, found = read_result(runs["gda"].result), read_draws(runs["gda"].draws)
    values = [draw.metrics["test/accuracy"] for draw in found]
    assert result.metrics["test/accuracy"] == pytest.approx(sum(values) / FEW_DRAWS)
    assert result.metrics["test/accuracy_low"] < min(values) <= max(values) < result.metrics["test/accuracy_high"]
    assert result.protocol["draws"] == FEW_DRAWS
    assert result.protocol["seeds"] == "1 ... 3"
    assert result.protocol["validation"] == "min(shots,4)"
    assert result.status == "completed"
    assert result.monitor["value"] == pytest.approx(sum(draw.metrics["val/accuracy"] for draw in found) / FEW_DRAWS)
    page = runs["gda"].report.read_text()
    assert "means of 3 draws" in page
    assert f"| 2 | {found[1].metrics['test/accuracy']:.4f} |" in page
    assert "Transductive: yes" in runs["inmap"].report.read_text()
    assert len(list((runs["gda"].path / "splits").glob("*.json"))) == FEW_DRAWS


@pytest.mark.parametrize("stack_gib", [1e-6, 100.0])
def test_how_many_are_solved_at_once_changes_nothing(runs, tmp_path, stack_gib):
    again = run(draws, tmp_path / "again", ["task=gda", f"draws={FEW_DRAWS}", "seed=1", f"stack_gib={stack_gib}"])
    for one, other in zip(read_draws(again.draws), read_draws(runs["gda"].draws), strict=True):
        assert dict(one.metrics) == pytest.approx(dict(other.metrics), abs=1e-6)


def test_tables_and_comparisons_count_every_draw(runs):
    folder = runs["gda"].path.parent
    summary = summarise([draw for job in read_jobs(folder) for draw in draws_of(folder / job.name, job)])
    assert {row.settings["task"]: row.metrics["test/accuracy"].count for row in summary.rows} == dict.fromkeys(
        QUICK, FEW_DRAWS
    )
    board = compare(read_runs([folder])).boards[0]
    assert all(one.paired.count == FEW_DRAWS and not one.other_splits for one in board.differences)
    assert len(board.differences) == len(QUICK) - 1


def test_a_draw_pairs_with_runs_of_one_draw(runs, runs_alone):
    folders = [runs["gda"].path, runs_alone["inmap"].path, runs_alone["gda"].path]
    board = compare(read_runs(folders), baseline="task=gda").boards[0]
    assert sorted(row.name for row in board.rows) == ["task=gda", "task=inmap"]
    assert board.differences[0].paired.count == 1
    gda = next(row for row in board.rows if row.name == "task=gda")
    assert (len(gda.runs), len(gda.repeats)) == (FEW_DRAWS, 1)


def test_a_folder_of_runs_over_draws_has_its_table(runs):
    folder = runs["gda"].path.parent
    page = write_summary(folder, "python run.py -m").metrics
    assert page[0] == "test/accuracy"
    assert "3 of 3" in (folder / "summary.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["draws=0"], "whole number from 1 on"),
        (["draws=true"], "whole number from 1 on"),
        (["stack_gib=0"], "must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, overrides, problem):
    config = compose_config(["mode=draws", "task=gda", f"paths.run_dir='{tmp_path}'", *overrides])
    with pytest.raises(UserError, match=problem):
        draws.run(config, overrides)


def test_a_task_that_is_trained_step_by_step_is_refused(tmp_path, capsys):
    config = compose_config(["mode=draws", "task=ce", "draws=2", f"paths.run_dir='{tmp_path}/run'", "trainer=cpu"])
    assert draws.run(config, ["task=ce"]) == 1
    assert "python run.py -m task=ce seed=0,1" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_run_over_draws_holds_no_head_to_go_on_with(runs):
    with pytest.raises(UserError, match="keeps none of their heads"):
        checkpoint_of(runs["gda"], "auto")
