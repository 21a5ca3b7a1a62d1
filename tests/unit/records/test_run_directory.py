import os

import pytest

from records.errors import UserError
from records.run_directory import MAX_CANDIDATES, RunDirectory, open_run


def make_run(path, age=0):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 0\n")
    (path / "result.json").write_text("{}\n")
    os.utime(path / "result.json", (1e9 - age, 1e9 - age))
    return path


def test_names_of_the_files():
    run = RunDirectory("somewhere/run")
    named = (run.config, run.result, run.metrics, run.report, run.pr_curve, run.last_checkpoint, run.codes)
    assert [file.relative_to("somewhere/run").as_posix() for file in named] == [
        "config.yaml",
        "result.json",
        "metrics.csv",
        "report.md",
        "plots/pr_curve.png",
        "checkpoints/last.ckpt",
        "codes/codes.npz",
    ]


def test_open_run_accepts_a_run(tmp_path):
    assert open_run(make_run(tmp_path / "a run [1]")).path == tmp_path / "a run [1]"


def test_missing_file_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml missing"):
        open_run(run)


def test_candidates_below_are_named_newest_first(tmp_path):
    older, newer = make_run(tmp_path / "day" / "one", age=10), make_run(tmp_path / "day" / "two", age=1)
    make_run(tmp_path / ".hidden" / "three")
    with pytest.raises(UserError) as caught:
        open_run(tmp_path)
    text = str(caught.value)
    assert text.index(f"run={newer}") < text.index(f"run={older}")
    assert "three" not in text


def test_candidates_near_a_path_that_does_not_exist(tmp_path):
    run = make_run(tmp_path / "outputs" / "good")
    with pytest.raises(UserError, match="no such folder") as caught:
        open_run(tmp_path / "outputs" / "god" / "deeper")
    assert f"run={run}" in str(caught.value)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="this is a file"):
        open_run(tmp_path / "file")


def test_few_candidates_are_listed(tmp_path):
    for number in range(MAX_CANDIDATES + 3):
        make_run(tmp_path / f"run{number}", age=number)
    with pytest.raises(UserError) as caught:
        open_run(tmp_path)
    assert str(caught.value).count("\n  run=") == MAX_CANDIDATES
