import warnings

import pytest

from records.notices import RunWarning, collect_run_warnings


def warn(text, category=RunWarning):
    warnings.warn(text, category, stacklevel=1)


def test_each_text_once_in_order(capsys):
    with collect_run_warnings() as texts:
        for text in ("weights are random", "checksum differs", "weights are random"):
            warn(text)
    assert texts == ["weights are random", "checksum differs"]
    screen = capsys.readouterr().err
    assert screen.count("weights are random") == 1
    assert "Warning" in screen


def test_long_text_is_shown_whole(capsys):
    with collect_run_warnings():
        warn("[bold]word[/bold] " + "word " * 60)
    screen = capsys.readouterr().err
    assert screen.count("word") == 61
    assert "[bold]" in screen


def test_others_pass_untouched():
    with pytest.warns(DeprecationWarning, match="old"), collect_run_warnings() as texts:
        warn("old", DeprecationWarning)
    assert texts == []


def test_told_at_once():
    told = []
    with collect_run_warnings(told.append):
        warn("a")
        assert told == ["a"]


def test_collected_though_filters_ignore_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with collect_run_warnings() as texts:
            warn("a")
    assert texts == ["a"]


def test_afterwards_warnings_are_as_before():
    show = warnings.showwarning
    with pytest.raises(KeyError), collect_run_warnings():
        raise KeyError("x")
    assert warnings.showwarning is show
