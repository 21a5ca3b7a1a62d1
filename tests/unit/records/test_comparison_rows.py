from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from compared_runs import write_run

from records import comparison_page as page
from records.comparison import compare, read_runs
from records.run_settings import WATCHING_CALLBACKS


def test_a_seed_that_was_run_again_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "old", 0.1)
    write_run(tmp_path / "new", 0.9, started="2026-02-01T00:00:00+00:00")
    (board,) = compare(read_runs([tmp_path])).boards
    assert board.rows[0].metrics["test/map@all"].mean == 0.9
    assert len(board.rows[0].repeats) == 1
    assert "Not counted: 1 earlier run" in page.board_section(board)


def test_rows_go_by_the_names_they_were_given(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", 0.5, seed=seed, bits=16, task="x", row="X, short codes")
        write_run(tmp_path / f"b{seed}", 0.6, seed=seed, bits=64, task="y", row="Y | long")
    (board,) = compare(read_runs([tmp_path])).boards
    assert [row.name for row in board.rows] == ["Y | long", "X, short codes"]
    assert board.keys == ("row",)
    assert [len(row.runs) for row in board.rows] == [2, 2]
    assert "| 1 | Y \\| long | 2 |" in page.board_section(board)


def test_rows_of_one_name_that_differ_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, bits=16, row="same")
    write_run(tmp_path / "b", 0.6, bits=64, row="same")
    (board,) = compare(read_runs([tmp_path])).boards
    assert [row.name for row in board.rows] == ["bits=64", "bits=16"]


def test_one_unnamed_run_makes_the_name_a_setting_like_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, bits=16, row="named")
    write_run(tmp_path / "b", 0.6, bits=64)
    (board,) = compare(read_runs([tmp_path])).boards
    assert [row.name for row in board.rows] == ["bits=64", "named bits=16"]


def test_a_seed_that_was_given_is_not_one_that_follows(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        folder = write_run(tmp_path / f"{seed}", 0.5 + seed / 10, seed=seed)
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("  split_seed:", "  selection_seed: 0\n  split_seed:"))
    (board,) = compare(read_runs([tmp_path])).boards
    assert [len(row.runs) for row in board.rows] == [3]


def test_a_seed_that_another_method_was_given_says_nothing_of_one_that_follows(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"x{seed}", 0.5 + seed / 10, seed=seed, task="x")
        folder = write_run(tmp_path / f"y{seed}", 0.4, seed=seed, task="y")
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(f"split_seed: {seed}", "split_seed: 0"))
    (board,) = compare(read_runs([tmp_path])).boards
    assert [(row.name, len(row.runs)) for row in board.rows] == [("task=x", 2), ("task=y", 2)]


def write_callbacks(folder: Path, callbacks: str) -> None:
    file = folder / "config.yaml"
    file.write_text(f"{file.read_text()}callbacks: {callbacks}\n")


def test_callbacks_that_act_on_the_weights_are_settings(tmp_path: Path) -> None:
    best = "best: {_target_: b, monitor: val/map@all}"
    write_callbacks(write_run(tmp_path / "a", 0.5), f"{{{best}, pictures: {{_target_: p, queries: 8}}}}")
    write_callbacks(write_run(tmp_path / "b", 0.5, seed=1), f"{{{best}, pictures: null}}")
    write_callbacks(write_run(tmp_path / "c", 0.6), f"{{{best}, ema: {{_target_: e, decay: 0.9}}}}")
    write_callbacks(write_run(tmp_path / "d", 0.7), f"{{{best}, own: {{_target_: mine.Own}}}}")
    write_callbacks(write_run(tmp_path / "e", 0.8), "{best: null}")
    (board,) = compare(read_runs([tmp_path])).boards
    assert [len(row.runs) for row in board.rows] == [1, 1, 1, 2]
    assert [row.settings.get("callbacks.ema.decay") for row in board.rows] == [None, None, "0.9", None]
    assert board.rows[1].settings["callbacks.own"] == "mine.Own"
    assert all(row.repeats == () for row in board.rows)


def test_every_callback_of_the_house_is_known_to_watch_or_to_act() -> None:
    folder = Path(__file__).resolve().parents[3] / "conf" / "callbacks"
    names = {name for file in folder.glob("*.yaml") for name in yaml.safe_load(file.read_text(encoding="utf-8"))}
    assert names - {"defaults"} == {*WATCHING_CALLBACKS, "best", "ema"}


def test_a_key_that_one_run_lacks_and_another_has_as_null_is_one_row(tmp_path: Path) -> None:
    for name, task, depth in (
        ("a", "y", ""),
        ("b", "y", "depth: null"),
        ("c", "x", "depth: 1"),
        ("d", "x", "depth: 2"),
    ):
        folder = write_run(tmp_path / name, 0.5, seed=int(name == "b"), task=task)
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("task:\n", f"task:\n  {depth}\n"))
    (board,) = compare(read_runs([tmp_path])).boards
    assert sorted((row.name, len(row.runs)) for row in board.rows) == [
        *[("task=x depth=1", 1), ("task=x depth=2", 1), ("task=y", 2)]
    ]


def test_a_key_that_older_runs_lack_tells_nothing_where_it_says_what_they_did(tmp_path: Path) -> None:
    write_run(tmp_path / "old", 0.5)
    for seed, padding in ((1, 0), (2, 4)):
        with_settings(write_run(tmp_path / f"{seed}", 0.5, seed=seed), data={"view_augment": {"crop_padding": padding}})
    (board,) = compare(read_runs([tmp_path])).boards
    assert sorted(len(row.runs) for row in board.rows) == [1, 2]


def test_a_row_tells_only_settings_that_vary_where_its_names_are_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, bits=16, task="x")
    write_run(tmp_path / "b", 0.6, bits=64, task="x")
    write_run(tmp_path / "c", 0.4, bits=32, task="y")
    (board,) = compare(read_runs([tmp_path])).boards
    assert [row.name for row in board.rows] == ["task=x bits=64", "task=x bits=16", "task=y"]
    assert "| 3 | `y` |  | 1 |" in page.board_section(board)


def with_settings(folder: Path, **changes: dict[str, Any]) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for group, settings in changes.items():
        config[group] = {**config.get(group, {}), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def test_a_setting_that_only_repeats_another_is_not_told(tmp_path: Path) -> None:
    for epochs in (5, 25):
        folder = write_run(tmp_path / str(epochs), epochs / 100)
        with_settings(folder, trainer={"max_epochs": epochs}, data={"epochs": epochs, "batch_size": epochs})
    (board,) = compare(read_runs([tmp_path])).boards
    assert board.keys == ("data.epochs", "data.batch_size")
    assert [row.name for row in board.rows] == ["epochs=25 batch_size=25", "epochs=5 batch_size=5"]


def test_a_setting_that_repeats_another_in_some_runs_alone_is_told(tmp_path: Path) -> None:
    for name, epochs, copy in (("a", 5, 5), ("b", 25, 25), ("c", 25, 5)):
        with_settings(write_run(tmp_path / name, 0.5), trainer={"max_epochs": epochs}, data={"epochs": copy})
    (board,) = compare(read_runs([tmp_path])).boards
    assert board.keys == ("data.epochs", "trainer.max_epochs")
    assert len(board.rows) == 3
