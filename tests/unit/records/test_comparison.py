from __future__ import annotations

import csv
import io
import math
import re
from itertools import chain, product
from pathlib import Path

import pytest
from compared_runs import write_run, write_seeds
from scipy import stats

from records import comparison_page as page
from records.comparison import command_of, compare, read_runs
from records.comparison_figures import comparison_picture, differences_picture
from records.errors import UserError
from records.paired_tests import holm, paired_difference, sign_test

SCORES = {
    16: [0.701, 0.702, 0.699, 0.705, 0.700],
    32: [0.803, 0.801, 0.807, 0.806, 0.802],
    48: [0.806, 0.799, 0.809, 0.804, 0.805],
}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_paired_test_is_scipys(count: int) -> None:
    first = [0.5 + 0.02 * math.sin(3.0 * number) for number in range(count)]
    second = [0.49 + 0.03 * math.cos(5.0 * number) for number in range(count)]
    found, expected = paired_difference(first, second), stats.ttest_rel(first, second)
    assert found.t_p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-9)
    assert found.wins + found.losses == count


def test_the_sign_test_counts_every_outcome() -> None:
    for wins, losses in product(range(6), repeat=2):
        count = wins + losses
        if count == 0:
            assert math.isnan(sign_test(0, 0))
            continue
        outcomes = [sum(signs) for signs in product((0, 1), repeat=count)]
        extreme = sum(abs(2 * outcome - count) >= abs(wins - losses) for outcome in outcomes)
        assert sign_test(wins, losses) == pytest.approx(extreme / 2**count)


def test_holm_by_steps() -> None:
    # the example's own steps: 0.005 * 4, 0.01 * 3, 0.03 * 2, then no less than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.6, math.nan, 0.7])
    assert adjusted[0] == adjusted[2] == 1.0
    assert math.isnan(adjusted[1])


def test_equal_differences_are_one_observation() -> None:
    found = paired_difference([0.3, 0.5, 0.8], [0.2, 0.4, 0.7])
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.t_p)
    assert math.isnan(paired_difference([0.5], [0.4]).t_p)
    with pytest.raises(ValueError, match="one pair"):
        paired_difference([], [])


def test_rows_differ_in_more_than_the_seed_and_the_best_comes_first(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", SCORES)
    (board,) = compare(read_runs([tmp_path / "a"])).boards
    assert [row.name for row in board.rows] == ["bits=48", "bits=32", "bits=16"]
    assert board.keys == ("task.bits",)
    assert [len(row.runs) for row in board.rows] == [5, 5, 5]
    assert board.rows[2].metrics["test/map@all"].mean == pytest.approx(sum(SCORES[16]) / 5)
    near, far = board.differences
    assert near.paired is not None
    assert near.paired.mean == pytest.approx(sum(b - a for a, b in zip(SCORES[48], SCORES[32], strict=True)) / 5)
    raw = [stats.ttest_rel(SCORES[48], SCORES[bits]).pvalue for bits in (32, 16)]
    assert (near.adjusted_p, far.adjusted_p) == pytest.approx((raw[0], 2 * raw[1]))
    assert "not significant at 0.05" in page.statement(board, near)
    assert re.search(r"worse by 0\.\d+ ± 0\.\d+ in 5 pairs, significant", page.statement(board, far))


def test_a_named_baseline_and_a_named_metric(tmp_path: Path) -> None:
    runs = read_runs([write_seeds(tmp_path / "a", SCORES)])
    (board,) = compare(runs, metric="accuracy", baseline="bits=16").boards
    assert board.metric == "test/accuracy"
    assert {one.baseline.name for one in board.differences} == {"bits=16"}
    with pytest.raises(UserError, match=r"baseline=bits=8.*\n  'bits=48'"):
        compare(runs, baseline="bits=8")
    with pytest.raises(UserError, match=r"by=recall.*test/map@all"):
        compare(runs, metric="recall")
    with pytest.raises(UserError, match=r"level=1\.5"):
        compare(runs, level=1.5)


def test_less_is_better_where_the_monitor_or_the_name_says_so(tmp_path: Path) -> None:
    monitor = {"name": "val/map@all", "direction": "min", "value": 0.1}
    for bits, score in ((16, 0.2), (32, 0.9)):
        write_run(tmp_path / str(bits), score, bits=bits, monitor=monitor)
    (board,) = compare(read_runs([tmp_path])).boards
    assert [row.name for row in board.rows] == ["bits=16", "bits=32"]
    assert board.is_better(-0.1)
    assert "worse by 0.7000" in page.statement(board, board.differences[0])


def test_only_equal_seeds_are_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9, seed=0, bits=16)
    write_run(tmp_path / "b", 0.5, seed=1, bits=32)
    (board,) = compare(read_runs([tmp_path])).boards
    assert board.differences[0].paired is None
    assert "no seed in common" in page.statement(board, board.differences[0])
    assert differences_picture(board) is None


def test_other_splits_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9, bits=16, fingerprint="one")
    write_run(tmp_path / "b", 0.5, bits=32, fingerprint="other")
    (board,) = compare(read_runs([tmp_path])).boards
    assert "The lists of samples differ" in page.statement(board, board.differences[0])
    text = page.differences(board)
    assert "No row shares two seeds with `bits=16`" in text
    assert text.endswith("Other lists of samples than that row's: `bits=32`.")
    assert differences_picture(board) is None


def test_each_data_set_has_its_board_and_its_own_metric(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9)
    other = {"test/hm": 0.3}
    write_run(tmp_path / "b", None, data="e", metrics=other, monitor={"name": "val/hm", "direction": "max", "value": 1})
    boards = compare(read_runs([tmp_path])).boards
    assert [(board.data, board.metric) for board in boards] == [("d", "test/map@all"), ("e", "test/hm")]


def test_a_folder_named_twice_is_read_once_and_wrong_ones_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a" / "run", 0.9)
    assert [one.job.name for one in read_runs([run, tmp_path / "a"])] == ["run"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no run"):
        read_runs([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such folder"):
        read_runs([tmp_path / "nowhere"])


def test_what_did_not_complete_is_told_and_not_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "good", 0.9)
    write_run(tmp_path / "bad", None, seed=1, status="failed", reason="out of\nmemory | gone")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    comparison = compare(read_runs([tmp_path]))
    assert comparison.counted == 1
    text = page.failures(comparison)
    assert "failed: out of memory \\| gone" in text
    assert "not strict JSON" in text
    lines = page.log(comparison).splitlines()[2:]
    assert len(lines) == 3
    assert lines[0].startswith("- 2026-01-02 10:00 **failed: out of memory | gone** t, m, d, seed 1")
    assert lines[1].startswith("- 2026-01-01 10:00 **test/map@all 0.9000**")
    with pytest.raises(UserError, match="nothing to compare"):
        compare(read_runs([tmp_path / "bad"]))


def test_csv_gives_the_same_bits(tmp_path: Path) -> None:
    comparison = compare(read_runs([write_seeds(tmp_path / "a", SCORES)]))
    rows = list(csv.DictReader(io.StringIO(page.as_csv(comparison))))
    expected = comparison.boards[0].rows[0].metrics["test/map@all"]
    assert float(rows[0]["test/map@all mean"]) == expected.mean
    assert float(rows[0]["test/map@all ci95"]) == expected.half_width
    assert [row["task.bits"] for row in rows] == ["48", "32", "16"]
    runs = list(csv.DictReader(io.StringIO(page.runs_csv(comparison))))
    assert sorted(float(row["test/map@all"]) for row in runs) == sorted(chain(*SCORES.values()))
    told = list(csv.DictReader(io.StringIO(page.differences_csv(comparison))))
    found = comparison.boards[0].differences[0].paired
    assert found is not None
    assert (float(told[0]["difference"]), float(told[0]["t_p"])) == (found.mean, found.t_p)


def test_latex_has_as_many_cells_in_every_line(tmp_path: Path) -> None:
    text = page.as_latex(compare(read_runs([write_seeds(tmp_path / "a", SCORES)])))
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns[1])}
    assert r"$\mathbf{0.8046} \pm" in lines[1]
    assert text.count("mathbf") == 1


def test_no_place_of_this_machine_is_published(tmp_path: Path) -> None:
    comparison = compare(read_runs([write_seeds(tmp_path / "a", SCORES)]))
    text = page.circumstances(comparison.boards[0], lambda key: key == "data.root")
    assert "python run.py -m task.bits=48 data.root=PLACE seed=0,1,2,3,4" in text
    assert "/elsewhere" not in text
    assert "/tmp" not in text
    assert "a processor, 2 cores, 4 GiB, no GPU" in text
    assert "2026-01-01 to 2026-01-05" in text


def test_the_told_command_keeps_the_sign_of_an_addition(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", 0.5, overrides=["+trainer.detect_anomaly=true", "task.bits=32", "~callbacks.ema", "seed=0"]
    )
    (board,) = compare(read_runs([tmp_path])).boards
    told = command_of(board.rows[0], lambda key: False)
    assert told == "python run.py +trainer.detect_anomaly=true task.bits=32 '~callbacks.ema' seed=0"


def test_the_told_command_says_which_place_follows_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        start = r"init_from=/elsewhere/ce/$\{seed\}"
        write_run(tmp_path / f"{seed}", 0.5, seed=seed, overrides=[start, f"seed={seed}", "data.root=/${x}/pictures"])
    (board,) = compare(read_runs([tmp_path])).boards
    told = command_of(board.rows[0], lambda key: key in ("init_from", "data.root"))
    assert told == "python run.py -m 'init_from=PLACE/${seed}' data.root=PLACE seed=0,1"


def test_tables_are_whole(tmp_path: Path) -> None:
    (board,) = compare(read_runs([write_seeds(tmp_path / "a", SCORES)])).boards
    text = page.board_section(board) + "\n\n" + page.differences(board) + "\n"
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_pictures_hold_every_row_and_every_pair(tmp_path: Path) -> None:
    (board,) = compare(read_runs([write_seeds(tmp_path / "a", SCORES)])).boards
    (axes,) = comparison_picture(board).figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bits=48", "bits=32", "bits=16"]
    picture = differences_picture(board)
    assert picture is not None
    (axes,) = picture.figure.axes
    pairs = [line.get_xdata() for line in axes.lines if line.get_marker() == "|" and len(line.get_xdata()) == 5]
    assert sorted(pairs[0]) == pytest.approx(sorted(b - a for a, b in zip(SCORES[48], SCORES[32], strict=True)))


def write_transductive(root: Path) -> Path:
    """Write two seeds of a task whose fit saw the test images beside two of one whose fit did not."""
    for seed in (0, 1):
        write_run(root / f"inductive{seed}", 0.7 + seed / 100, seed=seed, bits=16)
        write_run(root / f"seen{seed}", 0.8 + seed / 50, seed=seed, bits=32, protocol={"transductive": "yes, it saw"})
    return root


def test_every_table_marks_transductive_rows(tmp_path: Path) -> None:
    comparison = compare(read_runs([write_transductive(tmp_path / "a")]))
    (board,) = comparison.boards
    assert "Transductive, the fit saw the unlabelled test images: `bits=32`." in page.board_section(board)
    assert "One of the two is transductive" in page.differences(board)
    rows = csv.DictReader(io.StringIO(page.as_csv(comparison)))
    assert {row["row"]: row["transductive"] for row in rows} == {"bits=32": "yes", "bits=16": "no"}
    runs = csv.DictReader(io.StringIO(page.runs_csv(comparison)))
    assert [row["transductive"] for row in runs] == [
        "yes" if "seen" in run.job.name else "no" for run in comparison.runs
    ]
    (told,) = csv.DictReader(io.StringIO(page.differences_csv(comparison)))
    assert (told["transductive"], told["baseline_transductive"]) == ("no", "yes")
    latex = page.as_latex(comparison).splitlines()
    assert [line[:14] for line in latex if line.startswith(("32", "16"))] == [r"32$^\dagger$ &", "16 & 2 & $0.70"]
    assert r"\multicolumn{4}{l}{$^\dagger$ transductive: the fit saw the unlabelled test images} \\" in latex


def test_every_table_marks_rows_that_chose_on_the_test_part(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "honest", 0.7, bits=16)
    write_run(tmp_path / "a" / "leak", 0.8, bits=32, protocol={"test_leak": "yes, it chose"})
    comparison = compare(read_runs([tmp_path / "a"]))
    note = "No estimate of the accuracy on new images, settings were chosen on the labels of the test part: `bits=32`."
    assert note in page.board_section(comparison.boards[0])
    latex = page.as_latex(comparison).splitlines()
    assert [line[:15] for line in latex if line.startswith("32")] == [r"32$^\ddagger$ &"]
    assert r"\multicolumn{4}{l}{$^\ddagger$ settings chosen on the labels of the test part} \\" in latex


def test_without_a_transductive_row_no_table_speaks_of_it(tmp_path: Path) -> None:
    comparison = compare(read_runs([write_seeds(tmp_path / "a", SCORES)]))
    (board,) = comparison.boards
    text = page.board_section(board) + page.differences(board) + page.as_latex(comparison)
    assert "transductive" not in text.lower()
    assert "dagger" not in text


def test_the_metrics_of_the_tables_can_be_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    (board,) = compare(read_runs([tmp_path]), shown=["accuracy", "val/map@all"]).boards
    assert board.shown == ("test/accuracy", "val/map@all")
    assert "| runs | test/accuracy | val/map@all |" in page.board_section(board)
    assert "runs & test/accuracy & val/map@all" in page.as_latex(compare(read_runs([tmp_path]), shown=board.shown))
    with pytest.raises(UserError, match="metrics=hm was measured in none"):
        compare(read_runs([tmp_path]), shown=["hm"])
