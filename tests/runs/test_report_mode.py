from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "records"))
from compared_runs import write_run, write_seeds

from launch.compose import compose_config
from modes import report
from records.errors import UserError

SCORES = {16: [0.701, 0.702, 0.699], 32: [0.803, 0.801, 0.807]}


def report_on(tmp_path: Path, **options: Any) -> int:
    config = compose_config(["mode=report"])
    config.paths.run_dir = str(tmp_path / "report")
    config.runs = str(write_seeds(tmp_path / "sweep", SCORES))
    for key, value in options.items():
        config[key] = value
    return report.run(config, ["mode=report", "runs=/elsewhere/runs", "by=accuracy"])


def test_the_folder_holds_the_page_and_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_on(tmp_path, title="Bits") == 0
    names = {file.name for file in (tmp_path / "report").iterdir()}
    tables = {"leaderboard.csv", "leaderboard.tex", "differences.csv", "runs.csv"}
    assert names == {"report.md", "report.html", "d_rows.png", "d_differences.png", *tables}
    page = (tmp_path / "report" / "report.md").read_text()
    assert page.startswith("# Bits\n\nWritten on ")
    assert "from 6 of 6 runs, in 2 rows, on d." in page
    assert page.index("| 1 | `32` | 3 |") < page.index("| 2 | `16` | 3 |") < page.index("## Log")
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "no picture" not in html
    shown = capsys.readouterr().out
    assert "bits=16 against bits=32: worse by" in shown
    assert "report.html" in shown


def test_a_published_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "bits.md"
    report_on(tmp_path, into=str(page), title="Bits")
    first = page.read_text()
    assert first.startswith(f"# Bits\n\n{report.BEGIN}\n")
    page.write_text("By hand.\n\n" + first.replace("0.80", "9.99") + "\nThe end.\n")
    config = compose_config(["mode=report"])
    config.paths.run_dir, config.runs, config.into = str(tmp_path / "again"), str(tmp_path / "sweep"), str(page)
    report.run(config, ["mode=report", "runs=/elsewhere/runs", "by=accuracy"])
    second = page.read_text()
    assert second == "By hand.\n\n" + first + "\nThe end.\n"
    assert "python run.py mode=report runs=DIR by=accuracy" in second
    assert "/elsewhere" not in second
    assert str(tmp_path) not in second
    assert (page.parent / "bits" / "d_rows.png").is_file()
    assert "(bits/d_rows.png)" in second


def test_a_page_without_the_lines_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# By hand\n")
    with pytest.raises(UserError, match="add these two"):
        report_on(tmp_path, into=str(page))
    assert page.read_text() == "# By hand\n"


def test_runs_must_be_named() -> None:
    with pytest.raises(UserError, match="runs=DIR"):
        report.named_folders(None)
    assert report.named_folders("a") == ["a"]
    assert report.named_folders(["a", "b"]) == ["a", "b"]


def test_the_screen_marks_transductive_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "sweep" / "seen", 0.9, bits=64, protocol={"transductive": "yes"})
    assert report_on(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "bits=64 (transductive)" in shown
    assert shown.count("(transductive)") == 1
