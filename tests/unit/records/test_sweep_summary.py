from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from compared_runs import write_run
from PIL import Image

from records.atomic_file import write_json
from records.figures import MAX_SWEEP_ROWS, sweep_picture
from records.result import Result, to_json
from records.statistic import statistic
from records.sweep_summary import (
    SweepJob,
    as_csv,
    as_page,
    read_jobs,
    series_over_shots,
    summarise,
    write_summary,
)

if TYPE_CHECKING:
    from pathlib import Path

# Two-sided 95 % points of Student's t, from printed tables.
STUDENT = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}


def result(*overrides: str, score: float | None = None, best: float | None = None, **changes: Any) -> Result:
    empty = Result("t", "m", "d", "train", 0, list(overrides), "c", "r", "2026-01-01T00:00:00+00:00")
    metrics = {} if score is None else {"test/map@all": score, "test/accuracy": 0.5}
    monitor = {"name": "val/map@all", "direction": "max", "value": best}
    values: dict[str, Any] = {"status": "completed", "metrics": metrics, "monitor": monitor}
    return replace(empty, **{**values, **changes})


def jobs_of(*results: Result) -> list[SweepJob]:
    return [SweepJob(str(number), one) for number, one in enumerate(results)]


@pytest.mark.parametrize("freedom", STUDENT)
def test_the_interval_is_students(freedom: int) -> None:
    values = [0.3 + 0.01 * number**1.5 for number in range(freedom + 1)]
    found = statistic(values)
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / freedom)
    assert found.count == freedom + 1
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.deviation == pytest.approx(deviation, rel=1e-12)
    assert found.half_width == pytest.approx(STUDENT[freedom] * deviation / math.sqrt(freedom + 1), rel=5e-4)


def test_one_value_says_nothing_of_the_spread_and_nan_is_not_hidden() -> None:
    alone = statistic([0.25])
    assert alone.mean == 0.25
    assert math.isnan(alone.deviation)
    assert math.isnan(alone.half_width)
    assert math.isnan(statistic([0.25, math.nan]).mean)
    with pytest.raises(ValueError, match="one value at least"):
        statistic([])


def test_seeds_and_folds_are_averaged_and_every_other_setting_is_a_row() -> None:
    scores = {("16", "0"): 0.5, ("16", "1"): 0.7, ("32", "0"): 0.8, ("32", "1"): 0.9}
    overrides = [(f"task.bits={bits}", f"seed={seed}", "task=x", f"data.fold={seed}") for bits, seed in scores]
    jobs = jobs_of(*(result(*one, score=score) for one, score in zip(overrides, scores.values(), strict=True)))
    summary = summarise(jobs)
    assert summary.keys == ("task.bits",)
    assert [row.name for row in summary.rows] == ["bits=16", "bits=32"]
    assert [row.metrics["test/map@all"].mean for row in summary.rows] == pytest.approx([0.6, 0.85])
    assert summary.metrics[0] == "test/map@all"


def test_settings_and_seed_that_were_drawn_twice_count_once() -> None:
    drawn = [result("bits=16", score=0.5), result("bits=16", score=0.5), result("bits=32", score=0.6)]
    summary = summarise(jobs_of(*drawn))
    assert [row.metrics["test/map@all"].count for row in summary.rows] == [1, 1]
    assert "Not counted: 1 of a seed and settings that a later job has too." in as_page(summary, "again")


def test_the_best_validation_value_is_a_metric_of_its_own() -> None:
    summary = summarise(jobs_of(result("data.fold=0", best=0.4), result("data.fold=1", best=0.6)))
    (row,) = summary.rows
    assert row.name == "all"
    assert row.metrics["best val/map@all"].mean == pytest.approx(0.5)


def test_failed_and_running_jobs_count_in_no_mean_and_failures_are_told() -> None:
    failed = result("seed=2", score=0.0, status="failed", reason="line one\nline | two")
    running = result("seed=3", score=0.0, status="running")
    jobs = [*jobs_of(result("seed=0", score=0.5), result("seed=1", score=0.7)), SweepJob("2", failed)]
    jobs += [SweepJob("3", running), SweepJob("4", None, "damaged")]
    summary = summarise(jobs)
    row = summary.rows[0]
    assert (row.completed, len(row.jobs), row.metrics["test/map@all"].count) == (2, 5, 2)
    assert [job.name for job in summary.failed] == ["2", "4"]
    page = as_page(summary, "python run.py sweep.resume=x")
    assert "2 of 5 started jobs completed, 2 failed, 1 running." in page
    assert "failed: line one line \\| two" in page
    assert "python run.py sweep.resume=x" in page
    assert "2 of 5 | 0.6000 ± 1.2706 |" in page


def test_the_csv_keeps_every_bit() -> None:
    third = 1 / 3
    first, second = result("a=1", "seed=0", score=third), result("a=1", "seed=1", score=0.1)
    summary = summarise(jobs_of(first, second, result("a=2", score=0.2)))
    rows = list(csv.DictReader(io.StringIO(as_csv(summary))))
    assert [row["a"] for row in rows] == ["1", "2"]
    assert float(rows[0]["test/map@all mean"]) == summary.rows[0].metrics["test/map@all"].mean
    assert (rows[1]["test/map@all std"], rows[1]["jobs"], rows[1]["completed"]) == ("", "1", "1")


def test_jobs_are_read_in_the_order_of_their_numbers_and_nothing_below_a_run_counts(tmp_path: Path) -> None:
    for name in ("10", "2", "9", "2/evaluations/x"):
        write_json(tmp_path / name / "result.json", to_json(result(f"seed={name}")))
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "result.json").write_text("{")
    jobs = read_jobs(tmp_path)
    assert [job.name for job in jobs] == ["2", "9", "10", "11"]
    assert "not strict JSON" in jobs[-1].failure


def test_the_summary_is_three_files(tmp_path: Path) -> None:
    for seed in range(3):
        write_json(tmp_path / str(seed) / "result.json", to_json(result(f"seed={seed}", score=0.5 + seed / 10)))
    write_summary(tmp_path, "again")
    assert "0.6000 ± 0.2484" in (tmp_path / "summary.md").read_text()
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 2
    with Image.open(tmp_path / "summary.png") as image:
        assert "test/map@all" in image.info["Description"]


def test_without_a_completed_job_there_is_no_picture(tmp_path: Path) -> None:
    write_json(tmp_path / "0" / "result.json", to_json(result("seed=0", status="failed", reason="x")))
    write_summary(tmp_path, "again")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0", "summary.csv", "summary.html", "summary.md"]


def test_a_picture_has_a_line_for_each_setting_and_says_what_it_left_out() -> None:
    rows = [(f"lr={number}", [0.1, 0.3], 0.2, math.nan if number else 0.1) for number in range(MAX_SWEEP_ROWS + 2)]
    picture = sweep_picture(rows, metric="test/score")
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["lr=0", "lr=1"]
    assert len(axes.get_yticklabels()) == MAX_SWEEP_ROWS
    assert "first 40 of 42" in picture.description
    with pytest.raises(ValueError, match="one row"):
        sweep_picture([], metric="test/score")


def write_jobs(folder: Path, *results: Result) -> None:
    for number, one in enumerate(results):
        (folder / str(number)).mkdir()
        write_json(folder / str(number) / "result.json", to_json(one))


def test_a_sweep_over_shots_is_drawn_over_shots(tmp_path: Path) -> None:
    jobs = [("gda", "4", 0.7), ("gda", "1", 0.5), ("gda", "1", 0.6), ("lpp", "null", 0.9), ("lpp", "2", 0.8)]
    write_jobs(
        tmp_path,
        *(
            result(f"task={task}", f"data.shots={shots}", f"seed={seed}", score=score)
            for seed, (task, shots, score) in enumerate(jobs)
        ),
    )
    series = series_over_shots(write_summary(tmp_path, "resume"))
    assert {name: [shots for shots, *_ in points] for name, points in series.items()} == {
        "task=gda": [1, 4],
        "task=lpp": [2],
    }
    assert series["task=gda"][0][1] == pytest.approx(0.55)
    assert (tmp_path / "shots.png").is_file()
    assert "(shots.png)" in (tmp_path / "summary.md").read_text()


def test_another_sweep_has_no_picture_over_shots(tmp_path: Path) -> None:
    write_jobs(tmp_path, result("task=gda", "seed=0", score=0.5))
    assert series_over_shots(write_summary(tmp_path, "resume")) == {}
    assert not (tmp_path / "shots.png").exists()


def test_transductive_rows_are_named() -> None:
    seen = {"transductive": "yes"}
    jobs = jobs_of(result("task=inmap", score=0.5, protocol=seen), result("task=gda", score=0.4))
    page = as_page(summarise(jobs), "resume")
    assert "Transductive, the fit saw the unlabelled test images: `task=inmap`." in page
    assert "ransductive" not in as_page(summarise(jobs[1:]), "resume")
    rows = csv.DictReader(io.StringIO(as_csv(summarise(jobs))))
    assert {row["task"]: row["transductive"] for row in rows} == {"inmap": "yes", "gda": "no"}


def test_rows_that_chose_on_the_test_part_are_named() -> None:
    leak = {"test_leak": "yes"}
    jobs = jobs_of(result("a=1", score=0.5, protocol=leak), result("a=2", score=0.4), result("a=3", protocol=leak))
    note = "settings were chosen on the labels of the test part"
    assert f"{note}: `a=1`, `a=3`." in as_page(summarise(jobs), "resume")
    assert f"{note}: all rows." in as_page(summarise(jobs[::2]), "resume")
    assert note not in as_page(summarise(jobs[1:2]), "resume")


def test_the_page_tells_protocol_data_and_environment_of_what_completed() -> None:
    told: dict[str, Any] = {
        "data_sizes": {"train": 1000},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 4, "gpus": []},
        "versions": {"torch": "2.15.0"},
        "git": {"commit": "a" * 40, "dirty": True},
    }
    jobs = jobs_of(
        result("seed=0", score=0.5, protocol={"validation": "min(shots,4)"}, **told),
        result("seed=1", score=0.5, protocol={"validation": "standard", "transductive": "yes"}, **told),
        result("seed=2", status="failed", reason="x", protocol={"validation": "of a failed job"}),
    )
    page = as_page(summarise(jobs), "resume")
    assert "| validation | min(shots,4); standard |" in page
    assert "| transductive | yes (of 1 of 2 runs) |" in page
    assert "| samples | train 1,000 |" in page
    assert "| hardware | a processor, 2 cores, 4 GiB, no GPU |" in page
    assert "| versions | torch 2.15.0 |" in page
    assert "| commits | `aaaaaaaaaa` with uncommitted changes |" in page
    assert "of a failed job" not in page


def test_the_page_has_the_settings_that_all_jobs_share_and_the_command_that_repeats_them(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / str(seed), 0.5, seed=seed, bits=16 * (seed + 1))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "result.json").write_text("{")
    write_summary(tmp_path, "python run.py sweep.resume=x", "python run.py -m task.bits=16,32 seed=0,1")
    page = (tmp_path / "summary.md").read_text()
    assert "| `data.root` | `d` |" in page
    assert "| `data.split_seed` | `${seed}` |" in page
    assert "`task.bits`" not in page.partition("## Settings")[2]
    assert "Repeats the whole sweep:\n\n```sh\npython run.py -m task.bits=16,32 seed=0,1\n```" in page
    assert "Repeats" not in as_page(summarise(read_jobs(tmp_path)), "resume")
