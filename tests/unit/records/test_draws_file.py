"""draws.csv: written and read to the bit, means with their interval, and each draw's own record out of it."""

import math
from dataclasses import replace

import pytest

from records.draws import Draw, metrics_over, read_draws, result_of, statistics_of, write_draws
from records.errors import UserError
from records.result import Result

DRAWS = [
    Draw(3, "aa", {"train/alpha": 0.1, "val/accuracy": 1 / 3, "test/accuracy": 0.5, "test/accuracy_low": 0.4}),
    Draw(4, "bb", {"train/alpha": 0.1, "val/accuracy": 2 / 3, "test/accuracy": 0.7, "test/accuracy_low": 0.6}),
]
WHOLE = Result(
    "gda", "tiny", "digits", "draws", 3, ["task=gda", "mode=draws", "draws=2", "seed=3"], "c", "r", "2026-01-01",
    status="completed", monitor={"name": "val/accuracy", "direction": "max", "value": 0.5}, fingerprint="both",
)  # fmt: skip


def test_what_is_written_is_read_to_the_bit(tmp_path):
    odd = Draw(5, "cc", {"val/accuracy": math.nan, "test/hm": 0.25})
    write_draws(tmp_path / "draws.csv", [*DRAWS, odd])
    *found, last = read_draws(tmp_path / "draws.csv")
    assert found == DRAWS
    assert math.isnan(last.metrics["val/accuracy"])
    assert last.metrics.keys() == odd.metrics.keys()


def test_no_file_is_no_draws_and_a_damaged_one_is_told(tmp_path):
    file = tmp_path / "draws.csv"
    assert read_draws(file) == []
    file.write_text("seed,fingerprint,test/accuracy\nthree,aa,0.5\n")
    with pytest.raises(UserError, match="damaged"):
        read_draws(file)


def test_means_have_the_interval_over_the_draws_and_not_that_of_one_draw():
    metrics = metrics_over(DRAWS)
    # t(0.975, 1) = 12.706; deviation 0.1 * sqrt(2); so the half width is 12.706 * 0.1
    assert metrics["test/accuracy"] == pytest.approx(0.6)
    assert metrics["test/accuracy_high"] == pytest.approx(0.6 + 1.2706, abs=1e-4)
    assert metrics["test/accuracy_low"] == pytest.approx(0.6 - 1.2706, abs=1e-4)
    assert statistics_of(DRAWS)["val/accuracy"].count == 2
    assert metrics_over(DRAWS[:1]) == {"train/alpha": 0.1, "val/accuracy": 1 / 3, "test/accuracy": 0.5}


def test_the_record_of_a_draw_is_that_of_its_own_run():
    one = result_of(DRAWS[1], WHOLE)
    assert (one.seed, one.fingerprint, one.metrics) == (4, "bb", DRAWS[1].metrics)
    assert one.overrides == ["task=gda", "seed=4"]
    assert one.monitor["value"] == 2 / 3
    assert result_of(DRAWS[1], replace(WHOLE, monitor=None)).monitor is None
