import math

import pandas as pd
import pytest

from records.errors import UserError
from records.metrics_file import columns_of, read_rows, write_rows

ROWS = [
    {"epoch": 0, "step": 10, "train/loss": 0.1 + 0.2, "val/map@all": 1e-300},
    {"epoch": 1, "step": 20, "train/loss": math.inf, 'odd, "name"': -0.0},
]


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "metrics.csv"
    write_rows(path, columns_of(ROWS), ROWS)
    assert read_rows(path) == ROWS
    assert all(isinstance(row["step"], int) for row in read_rows(path))


def test_nan_is_not_an_empty_cell(tmp_path):
    path = tmp_path / "metrics.csv"
    write_rows(path, ["epoch", "step", "a", "b"], [{"epoch": 0, "step": 1, "a": math.nan}])
    (row,) = read_rows(path)
    assert math.isnan(row["a"])
    assert "b" not in row


def test_other_programs_read_it(tmp_path):
    path = tmp_path / "metrics.csv"
    write_rows(path, columns_of(ROWS), ROWS)
    table = pd.read_csv(path)
    assert table["step"].tolist() == [10, 20]
    assert table['odd, "name"'].isna().tolist() == [True, False]


def test_unfinished_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    write_rows(path, columns_of(ROWS), ROWS)
    whole = path.read_text()
    path.write_text(whole[:-3])
    assert read_rows(path) == ROWS[:1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("time,loss\n1,2\n", "first columns"),
        ("epoch,step,loss\n0,1\n", "line 2: 2 cells"),
        ("epoch,step,loss\n0,1,2\n0,1,much\n", "line 3: loss is 'much'"),
    ],
)
def test_another_table_is_refused(tmp_path, text, problem):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=problem):
        read_rows(path)


def test_empty_file_has_no_rows(tmp_path):
    (tmp_path / "metrics.csv").write_text("")
    assert read_rows(tmp_path / "metrics.csv") == []
