"""What is said by the way, and what quiet mode keeps back."""

import io
import itertools

import pytest
from rich.progress import Progress

from records import console as screen
from records.console import ProgressLines, be_quiet, console, is_quiet, progress, say, tell, time_left, told


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    be_quiet(False)
    yield
    be_quiet(False)


@pytest.fixture
def clock(monkeypatch):
    """Let every look at the clock be 10 seconds after the last."""
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(screen.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_mode_keeps_back_what_is_said_by_the_way(quiet, capsys):
    be_quiet(quiet)
    assert is_quiet() is quiet
    say("by the way")
    console().print("a table")
    tell("the [bold]result[/bold]")
    by_the_way = "" if quiet else "by the way\na table\n"
    assert capsys.readouterr().out == by_the_way + "the [bold]result[/bold]\n"


def test_long_work_says_now_and_then_how_far_it_is(clock):
    stream = io.StringIO()
    advance = ProgressLines("looking at files", seconds=30, stream=stream)
    for done in range(100, 700, 100):
        advance(done, 1000)
    # begun at 0; calls at 10, 20, ...: the first counts as begun with 100 done, the third and the sixth are said
    assert stream.getvalue().splitlines() == [
        "looking at files: 300 of 1,000, about 1 min left",
        "looking at files: 600 of 1,000, about 40 s left",
    ]


@pytest.mark.parametrize("next_piece", [[(0, 1000), (200, 1000), (400, 1000)], [(0, 500), (100, 500), (200, 500)]])
def test_the_next_piece_of_work_has_its_own_clock(clock, next_piece):
    stream = io.StringIO()
    advance = ProgressLines("encoding", seconds=0, stream=stream)
    for done in (900, 1000):
        advance(done, 1000)
    for done, total in next_piece:
        advance(done, total)
    # a fifth of the second piece takes 10 s: from its first call to its second
    speeds = [line.partition(", ")[2] for line in stream.getvalue().replace("1,000", "1000").splitlines()]
    assert speeds[-3:] == ["", "about 40 s left", "about 30 s left"]


def test_a_loop_says_how_far_it_is_where_it_takes_long(clock, capsys):
    assert list(told("fitting", range(5))) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == "fitting: 2 of 5, about 30 s left\n"
    be_quiet(True)
    assert list(told("fitting", range(5))) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_a_loop_that_is_short_says_nothing(capsys):
    assert list(told("fitting", "ab")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_short_work_says_nothing():
    stream = io.StringIO()
    advance = ProgressLines("files", stream=stream)
    advance(1, 2)
    advance(2, 2)
    assert stream.getvalue() == ""


def test_progress_off_a_terminal_is_lines_and_in_quiet_mode_nothing(clock, capsys):
    with progress("files") as advance:
        for done in range(1, 5):
            advance(done, 4)
    assert capsys.readouterr().err == "files: 3 of 4, about 10 s left\n"
    be_quiet(True)
    with progress("files") as advance:
        for done in range(1, 5):
            advance(done, 4)
    be_quiet(False)
    with progress("files", is_shown=False) as advance:
        for done in range(1, 5):
            advance(done, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_progress_on_a_terminal_is_a_bar(variables, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with progress("encoding") as advance:
        advance(3, 12)
        advance(12, 12)
    shown = capsys.readouterr().err
    assert "encoding" in shown
    assert "12/12" in shown
    assert ("\x1b[38;" in shown or "\x1b[32" in shown) == (not variables)


def test_a_bar_begins_anew_where_less_is_done(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    begun = []
    add_task = Progress.add_task
    monkeypatch.setattr(
        Progress, "add_task", lambda bar, what, total: begun.append(total) or add_task(bar, what, total=total)
    )
    with progress("encoding") as advance:
        for done, total in [(3, 12), (12, 12), (2, 12), (12, 12), (1, 5)]:
            advance(done, total)
    assert begun == [12, 12, 5]
    assert "1/5" in capsys.readouterr().err


def test_what_is_left_follows_from_the_speed_so_far():
    assert time_left(10, 30, 20.0) == "1 min"
    assert time_left(0, 30, 20.0) == time_left(40, 0, 20.0) == ""
