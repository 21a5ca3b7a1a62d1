import io
import re

import pytest
from training_runs import Regression, loader, trainer

from callbacks.progress import EpochLines, MetricsBar, epoch_line, progress_bar
from callbacks.throughput import Throughput
from records.console import be_quiet


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_where_there_is_no_terminal():
    assert isinstance(progress_bar(), EpochLines)


def test_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress_bar(), MetricsBar)
    monkeypatch.setenv("NO_COLOR", "1")
    assert isinstance(progress_bar(), MetricsBar)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_bar(), EpochLines)


def test_line_of_an_epoch():
    values = {"train/loss": 0.12345, "val/map@all": float("nan"), "train/images_per_second": 12345.6}
    assert epoch_line(2, 20, values, 3.14159) == (
        "epoch 3/20  train/loss 0.1235  val/map@all nan  images/s 12,346  3.1 s"
    )
    assert epoch_line(0, -1, {}, 1.0) == "epoch 1  1.0 s"


def test_one_line_per_epoch_with_fresh_values():
    stream = io.StringIO()
    shown = ("train/loss", "val/score", "val/missing", "train/images_per_second")
    run = trainer(
        2,
        [Throughput(), EpochLines(shown, stream)],
        enable_progress_bar=True,
        enable_checkpointing=False,
    )
    run.fit(Regression((0.25, 0.75)), loader(), loader(16))
    run.test(run.lightning_module, loader(16), verbose=False)
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"epoch 1/2  train/loss 0\.\d{4}  val/score 0\.2500  images/s [\d,]+  \d+\.\d s", lines[0])
    assert "val/score 0.7500" in lines[1]
    assert lines[2:] == ["testing: 2 batches"]


def test_silent_when_disabled():
    stream = io.StringIO()
    bar = EpochLines(stream=stream)
    bar.disable()
    bar.print("x")
    bar.enable()
    bar.print("y")
    assert stream.getvalue() == "y\n"


def drawn(monkeypatch, capsys):
    run = trainer(1, [MetricsBar(("val/score", "train/loss"))], enable_progress_bar=True, enable_checkpointing=False)
    run.fit(Regression((0.25,)), loader(), loader(16))
    return run.progress_bar_callback.get_metrics(run, run.lightning_module), capsys.readouterr().out


def test_bar_shows_metrics_by_name_on_one_line(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    metrics, screen = drawn(monkeypatch, capsys)
    assert metrics["val/score"] == "0.2500"
    assert list(metrics) == ["val/score", "train/loss"]
    assert "\x1b[38;" in screen


def test_bar_without_colour(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    _, screen = drawn(monkeypatch, capsys)
    assert "Epoch 1/1" in screen
    assert "\x1b[38;" not in screen


def test_nothing_in_quiet_mode(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    be_quiet(True)
    run = trainer(1, [progress_bar()], enable_progress_bar=True, enable_checkpointing=False)
    be_quiet(False)
    run.fit(Regression(), loader())
    assert capsys.readouterr().out == ""


def test_long_epochs_and_tests_say_how_many_batches_are_done():
    stream = io.StringIO()
    lines = EpochLines((), stream, seconds=0.0)
    run = trainer(1, [lines], enable_progress_bar=True, enable_checkpointing=False)
    run.fit(Regression((0.25,)), loader(), loader(16))
    run.test(run.lightning_module, loader(16), verbose=False)
    lines._advance(0, [2, 3], 1)
    said = [line.partition(", about")[0] for line in stream.getvalue().splitlines()]
    assert said[:3] == [f"epoch 1/1, batches: {done} of 3" for done in (1, 2, 3)]
    assert "validating, batches: 2 of 2" in said
    assert said[-3:] == ["testing, batches: 1 of 2", "testing, batches: 2 of 2", "testing, batches: 3 of 5"]
