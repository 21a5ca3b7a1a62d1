from __future__ import annotations

from pathlib import Path

import pytest
from compared_runs import write_run

from records.comparison import compare, read_runs
from records.comparison_figures import curves_picture


def write_curves(folder: Path, header: str, lines: list[str]) -> None:
    (folder / "metrics.csv").write_text("\n".join([f"epoch,step,{header}", *lines, ""]))


def test_curves_are_those_of_the_ranking_metric(tmp_path: Path) -> None:
    for bits in (16, 32, 64):
        folder = write_run(tmp_path / str(bits), 0.01 * bits, bits=bits)
        epochs = 1 if bits == 64 else 3
        lines = [f"{epoch},{epoch},,{0.1 * epoch},{1.0 - epoch}" for epoch in range(epochs)]
        write_curves(folder, "train/map@all,val/map@all,train/loss", lines)
    (board,) = compare(read_runs([tmp_path])).boards
    picture = curves_picture(board)
    assert picture is not None
    panels = picture.figure.axes
    assert [axes.get_title("left") for axes in panels] == ["bits=32", "bits=16"]
    curve, reached = panels[0].lines
    assert list(curve.get_ydata()) == pytest.approx([0.0, 0.1, 0.2])
    assert list(reached.get_ydata()) == pytest.approx([0.32, 0.32])
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert "the validation part (blue)" in picture.description
    assert "training" not in picture.description


def test_a_row_without_the_metric_shows_its_loss(tmp_path: Path) -> None:
    for bits, name in ((16, "train/accuracy"), (32, "train/loss")):
        folder = write_run(tmp_path / str(bits), 0.01 * bits, bits=bits)
        write_curves(folder, name, [f"{epoch},{epoch},{4.0 - epoch}" for epoch in range(3)])
    (board,) = compare(read_runs([tmp_path])).boards
    picture = curves_picture(board)
    assert picture is not None
    assert picture.title == "d: accuracy by epoch"
    loss, accuracy = picture.figure.axes
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in (loss, accuracy)] == [1, 2]
    assert "show their training loss" in picture.description


def test_the_epochs_of_stages_follow_each_other(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.5)
    for stage, header in ((1, "train/loss"), (2, "train/loss,train/map@all")):
        (folder / f"stage{stage}").mkdir()
        more = ",0.5" if stage == 2 else ""
        write_curves(folder / f"stage{stage}", header, [f"{epoch},{epoch},{stage}{more}" for epoch in range(3)])
    (board,) = compare(read_runs([tmp_path])).boards
    picture = curves_picture(board)
    assert picture is not None
    (panel,) = picture.figure.axes
    (curve,) = panel.lines
    assert list(curve.get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(curve.get_ydata()) == [1, 1, 1, 2, 2, 2]


def test_no_curves_where_nothing_was_measured_by_epoch(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    (board,) = compare(read_runs([tmp_path])).boards
    assert curves_picture(board) is None
