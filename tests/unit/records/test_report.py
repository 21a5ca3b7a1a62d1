import re

import numpy as np
import pytest
import yaml

from records import environment
from records.errors import UserError
from records.figures import precision_recall_picture
from records.labels_file import KnownLabels, write_labels
from records.metrics_file import columns_of, write_rows
from records.report import write_report
from records.result import RunRecord
from records.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "git_state", lambda: {"commit": "a" * 40, "dirty": True})
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(yaml.safe_dump({"seed": 0, "task": {"bits": 32, "cuts": ["all", 10]}, "paths": {"x": 1}}))
    return run


def started(run, **changes):
    description = {
        "task": "greedyhash",
        "model": "tiny",
        "data": "digits",
        "mode": "train",
        "seed": 0,
        "overrides": [],
        "command": "python run.py task=greedyhash",
        "resume_command": "python run.py run=outputs/a",
        "monitor": "val/map@all",
        "direction": "max",
    }
    return RunRecord.start(run, **{**description, **changes})


def complete(run):
    record = started(run)
    record.describe(data_sizes={"train": 1297, "query": 360}, num_classes=10, fingerprint="abc", checkpoint_used="best")
    record.warn("weights are random |\nnot pretrained")
    rows = [{"epoch": epoch, "step": epoch + 1, "train/loss": 1.0 / (epoch + 1)} for epoch in range(3)]
    write_rows(run.metrics, columns_of(rows), rows)
    precision_recall_picture(np.ones(9), np.linspace(0, 1, 9), bits=8, description="What is seen.").save(run.pr_curve)
    record.finish({"test/map@all": 0.98765, "test/precision@10": 0.5, "test/bit_balance": float("nan")}, 0.9)
    return write_report(run).read_text(encoding="utf-8")


def test_a_head_that_is_fitted_at_once_has_no_best_epoch(run):
    record = started(run)
    record.describe(parameters={"total": 10, "trainable": 0}, checkpoint_used="best")
    record.finish({"test/map@all": 0.9}, 0.8)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Nothing was trained in steps, so there was no epoch to choose." in page
    assert "| val/map@all | 0.8000 |" in page
    assert "checkpoint." not in page
    assert "best" not in page


def test_report_of_a_finished_run(run):
    page = complete(run)
    assert page.startswith("# greedyhash, tiny, digits\n\nStatus: **completed**.")
    assert "| map@all | 0.9877 |" in page
    assert "| best val/map@all (max) | 0.9000 |" in page
    assert "Tested on the **best** checkpoint." in page
    assert "| train | 1,297 |" in page
    assert "| `task.bits` | `32` |" in page
    assert "`paths.x`" not in page
    assert "nan (not a finite number)" in page
    assert f"`{'a' * 40}` with uncommitted changes" in page
    assert "python run.py task=greedyhash\n" in page
    assert "python run.py run=outputs/a\n" in page


def test_the_page_is_one_html_file_too(run):
    write_labels(run, KnownLabels(("cat", "dog & co"), (30, 1), False, {"train": 31}))
    page = complete(run)
    html = run.html_report.read_text(encoding="utf-8")
    assert "![Training images of 2 classes](plots/class_counts.png)" in page
    assert "imbalance ratio 30.0" in html
    assert html.count('src="data:image/png;base64,') == page.count("![") == 3
    headings = re.findall("^## (.+)$", page, flags=re.MULTILINE)
    assert re.findall(r"<h2[^>]*>(.+)</h2>", html) == headings
    assert "no picture" not in html


def test_warnings_stand_on_top_in_one_line_each(run):
    page = complete(run)
    assert "> weights are random | not pretrained" in page
    assert page.index("Warnings of this run") < page.index("## Result")


def test_every_picture_is_shown_with_its_caption(run):
    page = complete(run)
    shown = re.findall(r"!\[(.+?)\]\((.+?)\)", page)
    assert [place for _, place in shown] == ["plots/training_curves.png", "plots/pr_curve.png"]
    assert all((run.path / place).is_file() for _, place in shown)
    assert "What is seen." in page


def test_tables_are_whole(run):
    for block in re.findall(r"(?:^\|.*\n)+", complete(run), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_headline_begins_with_the_metric_that_chose_the_epoch(run):
    record = started(run, monitor="val/map@1000")
    metrics = {"accuracy": 0.5, "precision@10": 0.25, "map@1000": 0.75, "empty_queries": 1200.0}
    record.finish({f"test/{name}": value for name, value in metrics.items()}, 0.8)
    page = write_report(run).read_text(encoding="utf-8")
    lines = page[page.index("## Result") : page.index("## Settings")].splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[1:] == [
        "| map@1000 | 0.7500 |",
        "| precision@10 | 0.2500 |",
        "| accuracy | 0.5000 |",
        "| best val/map@1000 (max) | 0.8000 |",
    ]
    assert "| `test/empty_queries` | 1,200 |" in page


def test_an_interval_stands_beside_its_metric(run):
    record = started(run)
    record.finish({"test/map@all": 0.5, "test/map@all_low": 0.45, "test/map@all_high": 0.55, "test/accuracy": 0.9})
    page = write_report(run).read_text(encoding="utf-8")
    assert "| map@all | 0.5000 [0.4500, 0.5500] |" in page
    assert "| `test/map@all` | 0.5000 [0.4500, 0.5500] |" in page
    assert "| metric | value [95 % interval] |" in page
    assert "map@all_low" not in page


def test_failed_run_has_a_report_with_its_reason(run):
    started(run).fail("the loss is not finite")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Status: **failed**" in page
    assert "Reason: the loss is not finite" in page
    assert "No test result was recorded." in page


def test_earlier_attempts_are_told(run):
    first = started(run)
    first.warn("old warning")
    first.interrupt()
    started(run).finish({})
    page = write_report(run).read_text(encoding="utf-8")
    assert "Resumed 1 time(s)" in page
    assert "> old warning" in page


def test_missing_config_is_an_error(run):
    started(run)
    run.config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml"):
        write_report(run)
