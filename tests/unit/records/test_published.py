from __future__ import annotations

import re
from pathlib import Path

import pytest
from compared_runs import write_run

from records import comparison_page as page
from records.comparison import compare, read_runs
from records.errors import UserError
from records.published import read_published


def test_published_figures_stand_beside_their_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", 0.5, bits=16)
    write_run(tmp_path / "runs" / "b", 0.6, bits=64)
    file = tmp_path / "published.csv"
    file.write_text(
        "row,metric,value,source\n"
        'bits=16,map@all,0.48,"A, 2019"\n'
        "bits=16,test/map@all,0.49,B\n"
        'bits=64,test/map@all,0.7,"A, 2019"\n'
        "bits=64,accuracy,0.9,C\n"
    )
    (board,) = compare(read_runs([tmp_path / "runs"]), published=read_published(file)).boards
    text = page.board_section(board)
    assert "| published mAP@all |" in text
    assert re.search(r"\| `64` \| 1 \|.*\| 0\.7 \[1\] \| 0\.9 \[3\] \|", text)
    assert re.search(r"\| `16` \| 1 \|.*\| 0\.48 \[1\]; 0\.49 \[2\] \|  \|", text)
    assert "| published accuracy |" in text
    assert text.endswith("from\n\n1. A, 2019\n2. B\n3. C")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,value\n", "must be row,metric,value,source"),
        ("row,metric,value,source\nbits=32,map@all,38.3,A\n", "line 2: value is 38.3; figures are fractions"),
        ("row,metric,value,source\nbits=32,map@all,high,A\n", "line 2: value is 'high'"),
        ("row,metric,value,source\nbits=32,map@all,0.3\n", "line 2: it must have 4 cells"),
        ("row,metric,value,source\nbits=32,map@all,0.3,A,B\n", "line 2: it must have 4 cells"),
        ("row,metric,value,source\nbits=31,map@all,0.3,A\n", "published=bits=31: no row is called so"),
        ("row,metric,value,source,data\nbits=32,map@all,0.3,A\n", "line 2: it must have 4 cells"),
    ],
)
def test_a_wrong_file_of_published_figures_is_told(tmp_path: Path, text: str, told: str) -> None:
    write_run(tmp_path / "a" / "32", 0.5, bits=32)
    write_run(tmp_path / "a" / "16", 0.5, bits=16)
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(told)):
        compare(read_runs([tmp_path / "a"]), published=read_published(tmp_path / "published.csv"))


def test_a_published_figure_stands_beside_one_data_set_alone(tmp_path: Path) -> None:
    for data in ("d", "e"):
        write_run(tmp_path / "runs" / f"{data}16", 0.5, bits=16, data=data)
        write_run(tmp_path / "runs" / f"{data}64", 0.6, bits=64, data=data)
    runs, file = read_runs([tmp_path / "runs"]), tmp_path / "published.csv"
    file.write_text("row,metric,value,source\nbits=16,map@all,0.48,A\n")
    with pytest.raises(UserError, match="rows of d and e are called so; say whose"):
        compare(runs, published=read_published(file))
    file.write_text("row,metric,value,source,data\nbits=16,map@all,0.48,A,e\n")
    first, second = compare(runs, published=read_published(file)).boards
    assert "0.48 [1]" in page.board_section(second)
    assert "0.48" not in page.board_section(first)
    assert "published" not in page.board_section(first)
    file.write_text("row,metric,value,source,data\nbits=16,map@all,0.48,A,f\n")
    with pytest.raises(UserError, match="no runs are of data=f; choices: d, e"):
        compare(runs, published=read_published(file))


def test_a_missing_file_of_published_figures_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_published(tmp_path / "none.csv")
