"""Rows of runs that start from other runs: what those are counts, and not where they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from compared_runs import write_run

from records import comparison_page as page
from records.comparison import Board, compare, read_runs


def start(folder: Path, place: Path, key: str = "init_from") -> Path:
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    *groups, name = key.split(".")
    node = config
    for group in groups:
        node = node.setdefault(group, {})
    node[name] = str(place)
    file.write_text(yaml.safe_dump(config))
    return folder


def board_of(*folders: Path) -> Board:
    (board,) = compare(read_runs(folders)).boards
    return board


def test_runs_that_start_from_the_run_of_their_own_seed_are_one_row(tmp_path: Path) -> None:
    for number, seed in enumerate((2, 0, 1)):
        backbone = write_run(tmp_path / "starts" / f"of day {number}", 0.1, seed=seed, task="ce")
        start(write_run(tmp_path / "heads" / f"{number}", 0.5, seed=seed), backbone)
    board = board_of(tmp_path / "heads")
    assert [(row.name, len(row.runs)) for row in board.rows] == [("t m", 3)]
    assert str(tmp_path) not in page.board_section(board)


@pytest.mark.parametrize("key", ["task.teacher", "task.encoders.dogs.run"])
def test_teachers_and_experts_are_told_as_starts_are(tmp_path: Path, key: str) -> None:
    for seed in (0, 1):
        teacher = write_run(tmp_path / "teachers" / f"{seed}", 0.1, seed=seed, task="ce")
        start(write_run(tmp_path / "students" / f"{seed}", 0.5, seed=seed), teacher, key)
    assert [len(row.runs) for row in board_of(tmp_path / "students").rows] == [2]


def test_a_row_tells_what_its_start_was_where_starts_differ(tmp_path: Path) -> None:
    for task, bits in (("ce", 16), ("ce", 32), ("other", 64)):
        backbone = write_run(tmp_path / "starts" / f"{task}{bits}", 0.1, task=task, bits=bits)
        start(write_run(tmp_path / "heads" / f"{task}{bits}", bits / 100), backbone)
    write_run(tmp_path / "heads" / "scratch", 0.01)
    board = board_of(tmp_path / "heads")
    assert board.keys == ("init_from.task.name", "init_from.task.bits")
    assert [row.name for row in board.rows] == [
        "init_from.task=other init_from.task.bits=64",
        "init_from.task=ce init_from.task.bits=32",
        "init_from.task=ce init_from.task.bits=16",
        "t m",
    ]
    assert "| 1 | `other` | `64` | 1 |" in page.board_section(board)


def test_one_start_for_every_seed_is_not_the_start_of_each(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        backbone = write_run(tmp_path / "starts" / f"{seed}", 0.1, seed=seed, task="ce")
        start(write_run(tmp_path / "heads" / f"own{seed}", 0.5, seed=seed, row="own"), backbone)
        start(write_run(tmp_path / "heads" / f"first{seed}", 0.4, seed=seed, row="first"), tmp_path / "starts" / "0")
    board = board_of(tmp_path / "heads")
    assert [(row.name, len(row.runs)) for row in board.rows] == [("own", 3), ("first", 3)]


def test_a_checkpoint_within_a_run_is_told_by_its_name(tmp_path: Path) -> None:
    backbone = write_run(tmp_path / "start", 0.1, task="ce")
    for name in ("best.ckpt", "last.ckpt"):
        start(write_run(tmp_path / "heads" / name, 0.5, bits=len(name)), backbone / "checkpoints" / name)
    start(write_run(tmp_path / "heads" / "whole", 0.6), backbone)
    assert "init_from.checkpoint" in board_of(tmp_path / "heads").keys


def test_what_is_no_run_keeps_its_place(tmp_path: Path) -> None:
    gone = write_run(tmp_path / "gone", 0.1)
    start(write_run(tmp_path / "heads" / "a", 0.5), gone)
    start(write_run(tmp_path / "heads" / "b", 0.6), Path("/weights/foreign.pth"))
    shutil.rmtree(gone)
    board = board_of(tmp_path / "heads")
    assert board.keys == ("init_from",)
    assert [row.settings["init_from"] for row in board.rows] == ["/weights/foreign.pth", str(gone)]


def test_runs_that_start_from_nothing_have_no_start_in_the_folder_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "null", 0.1)
    for place in (tmp_path, tmp_path / "null"):
        monkeypatch.chdir(place)
        start(write_run(place / "heads" / "a", 0.5), "null")
        assert "init_from" in board_of(place / "heads").rows[0].runs[0].settings


def test_runs_that_start_from_each_other_end(tmp_path: Path) -> None:
    first = write_run(tmp_path / "runs" / "a", 0.5, bits=16)
    second = start(write_run(tmp_path / "runs" / "b", 0.6, bits=32), first)
    start(first, second)
    assert len(board_of(tmp_path / "runs").rows) == 2


def test_chains_of_starts_are_told_to_their_end(tmp_path: Path) -> None:
    for seed in (0, 1):
        first = write_run(tmp_path / "first" / f"{seed}", 0.1, seed=seed)
        second = start(write_run(tmp_path / "second" / f"{seed}", 0.2, seed=seed), first)
        start(write_run(tmp_path / "third" / f"{seed}", 0.3, seed=seed), second)
    assert [len(row.runs) for row in board_of(tmp_path / "third").rows] == [2]
