"""Logger trouble of every kind: the run goes on, says so in its record, and metrics.csv loses no row."""

import errno
import os
import socket
import sys
from pathlib import Path

import lightning as L
import pytest
from faulty_runs import SHORT
from lightning.pytorch.loggers import CSVLogger, Logger

from callbacks.loggers import SteadyLogger, steady, wandb_logger
from callbacks.metrics_table import MetricsTable, ResumedTable
from launch.compose import compose_config
from modes import train
from records.metrics_file import read_rows
from records.notices import RunWarning
from records.result import read_result

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "callbacks"))
from training_runs import Regression, loader, trainer


class Fragile(Logger):
    """A logger of which one method fails at its second call."""

    def __init__(self, fails):
        super().__init__()
        self.fails, self.calls = fails, 0

    name, version = "fragile", ""

    def log_metrics(self, metrics, step=None):
        self._answer("log_metrics")

    def log_hyperparams(self, params, *arguments, **named):
        self._answer("log_hyperparams")

    def save(self):
        self._answer("save")

    def finalize(self, status):
        self._answer("finalize")

    def after_save_checkpoint(self, checkpoint_callback):
        self._answer("after_save_checkpoint")

    def _answer(self, method):
        self.calls += 1
        if method == self.fails:
            raise ConnectionResetError("the server went away")


def fit(*loggers, epochs=3):
    run = trainer(epochs, [ResumedTable()], list(loggers), enable_checkpointing=False)
    run.fit(Regression(), loader())
    return run


@pytest.mark.parametrize("method", ["log_metrics", "save", "finalize", "log_hyperparams", "after_save_checkpoint"])
def test_an_exception_inside_any_call_of_a_logger_is_a_warning(method):
    fragile = Fragile(method)
    logger = steady(fragile)

    def use():
        run = fit(logger)
        logger.log_hyperparams({"a": 1})
        logger.after_save_checkpoint(None)
        return run

    with pytest.warns(RunWarning, match="logger Fragile failed and is left alone.*the server went away"):
        run = use()
    calls = fragile.calls
    logger.log_metrics({"a": 1.0}, 1)
    assert (run.global_step, fragile.calls) == (9, calls)


def test_a_logger_whose_experiment_cannot_be_made_is_left_alone():
    class NoExperiment(Fragile):
        @property
        def experiment(self):
            raise PermissionError("no such project")

    with pytest.warns(RunWarning, match="no such project"):
        run = fit(steady(NoExperiment("none")))
    assert run.global_step == 9


def test_a_logger_behind_the_guard_is_itself(tmp_path):
    plain = CSVLogger(tmp_path, name="name", version="7")
    logger = steady(plain)
    assert isinstance(logger, SteadyLogger)
    assert (logger.name, logger.version, logger.save_dir) == ("name", "7", str(tmp_path))
    assert logger.experiment is plain.experiment
    fit(logger)
    assert len((Path(plain.log_dir) / "metrics.csv").read_text().splitlines()) > 3
    for own in (MetricsTable(str(tmp_path)), wandb_logger(str(tmp_path), "p", offline=True)):
        assert steady(own) is own


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_rows_that_a_full_disk_refuses_are_written_when_there_is_room(tmp_path, monkeypatch, number, torn):
    """A refused write may have put a part of the row into the file (`torn`)."""
    whole = MetricsTable(str(tmp_path / "whole"))
    table = MetricsTable(str(tmp_path / "table"))
    overwrite = MetricsTable._overwrite

    def refuse(file, offset, line):
        if torn:
            overwrite(file, offset, line[: len(line) // 2])
        raise OSError(number, os.strerror(number))

    def log(table, epoch):
        for values in ({"val/score": epoch / 7}, {"train/loss": 1 / (epoch + 3)}):
            table.log_metrics({**values, "epoch": epoch}, step=3 * epoch)

    for epoch in range(6):
        log(whole, epoch)
    for epoch in range(2):
        log(table, epoch)
    with monkeypatch.context() as disk:
        disk.setattr(MetricsTable, "_overwrite", staticmethod(refuse))
        for epoch in (2, 3):
            with pytest.warns(RunWarning, match=os.strerror(number)):
                log(table, epoch)
    for epoch in (4, 5):
        log(table, epoch)
    assert read_rows(table.path) == read_rows(whole.path)


def test_rows_left_at_the_end_are_written_when_the_run_is_finished(tmp_path, monkeypatch):
    table = MetricsTable(str(tmp_path))
    table.log_metrics({"epoch": 0, "a": 1.0}, step=0)
    with monkeypatch.context() as disk:
        disk.setattr(MetricsTable, "_overwrite", staticmethod(raise_full))
        with pytest.warns(RunWarning):
            table.log_metrics({"epoch": 1, "a": 2.0}, step=1)
    table.finalize("success")
    assert [row["a"] for row in read_rows(table.path)] == [1.0, 2.0]


def raise_full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_with_wandb(directory, *overrides):
    overrides = [*SHORT, "trainer.max_epochs=1", "logger=wandb", *overrides]
    config = compose_config([*overrides, f"paths.run_dir='{directory}'"])
    assert train.run(config, overrides) == 0
    result = read_result(directory)
    assert result.status == "completed"
    assert [row["epoch"] for row in read_rows(directory / "metrics.csv")] == [0, 1]
    return " ".join(result.warnings)


@pytest.fixture
def account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_a_run_without_a_token(account, tmp_path):
    assert "no API key for 127.0.0.1" in run_with_wandb(tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_wandb_server_does_not_answer(account, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert "127.0.0.1 cannot be reached" in run_with_wandb(tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_wandb_quota_is_used_up_in_the_middle(account, monkeypatch, tmp_path):
    import wandb

    def log(self, *arguments, **named):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(wandb.Run, "log", log)
    assert os.strerror(errno.EDQUOT) in run_with_wandb(tmp_path / "run", "logger.wandb.offline=true")


@pytest.mark.slow
def test_a_run_whose_tensorboard_fails(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    monkeypatch.setattr(L.pytorch.loggers.TensorBoardLogger, "log_metrics", raise_full)
    text = run_with_wandb(tmp_path / "run", "logger=tensorboard")
    assert "logger TensorBoardLogger failed and is left alone" in text
