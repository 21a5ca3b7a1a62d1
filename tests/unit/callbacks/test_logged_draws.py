"""What a run over draws tells its loggers, and that W&B and pictures are left out where their callbacks are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger

from callbacks.logged_draws import DrawsLog
from callbacks.loggers import SteadyWandbLogger
from callbacks.metrics_table import MetricsTable
from lit_modules.metrics.per_class import ClassRecognition, PooledRecognition, pooled
from records.atomic_file import write_text
from records.draws import Draw
from records.run_directory import RunDirectory

NAMES = ("cat", "dog", "emu")
DRAWS = [Draw(seed, "f", {"test/accuracy": value}) for seed, value in ((4, 0.5), (5, 0.75))]


class Recorder(Logger):
    """Remembers what it is told."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def log_hyperparams(self, *arguments: Any, **named: Any) -> None:
        raise AssertionError("nobody tells settings this way")

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.told.append((dict(metrics), step))

    def finalize(self, status: str) -> None:
        self.told.append(status)


class Board(SteadyWandbLogger):
    """Stands for W&B: a run that remembers what is logged and configured."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def record(self, action: Any) -> None:
        action(self)

    def log(self, content: Any) -> None:
        self.seen.append(sorted(content))

    @property
    def config(self) -> Any:
        return self

    def update(self, content: Any, allow_val_change: bool) -> None:
        self.seen.append(content)

    def define_metric(self, name: str, **settings: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_image(self, *given: Any, **named: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.seen.append(status)

    def finish(self) -> None:
        self.seen.append("finished")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    write_text(run.config, "task:\n  name: gda\n  monitor: accuracy\n")
    return run


def result() -> PooledRecognition:
    metric = ClassRecognition(bootstrap=0)
    label = torch.arange(12) % 3
    metric.update(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), label, torch.arange(12))
    return pooled([metric.compute()])


def test_every_draw_has_its_step_and_the_means_come_last(run: RunDirectory) -> None:
    logger = Recorder()
    log = DrawsLog(run, [logger, MetricsTable(str(run.path))])
    with log.opened():
        for place, draw in enumerate(DRAWS):
            log.log_draw(draw, place)
        log.log_whole({"test/accuracy": 0.625}, result(), NAMES, len(DRAWS))
    assert logger.told == [
        ({"draws/test/accuracy": 0.5, "draws/seed": 4.0}, 0),
        ({"draws/test/accuracy": 0.75, "draws/seed": 5.0}, 1),
        ({"test/accuracy": 0.625}, 2),
        "success",
    ]
    assert not run.metrics.exists()


def test_weights_and_biases_learns_settings_and_classes_and_is_ended(run: RunDirectory) -> None:
    board = Board()
    log = DrawsLog(run, [board], recognition_pictures=False, few_shot_pictures=False)
    with log.opened():
        log.log_whole({}, result(), NAMES, 2)
    assert board.seen[0]["task"]["name"] == "gda"
    assert {"test/classes", "test/confusion_matrix"} <= set(board.seen[1])
    assert board.seen[2:] == ["success", "finished"]
    assert not run.plots.exists()
    quiet = Board()
    with DrawsLog(run, [quiet], wandb_tables=False).opened():
        pass
    assert quiet.seen == ["success", "finished"]


def test_a_run_that_fails_is_told_of_as_failed(run: RunDirectory) -> None:
    logger = Recorder()
    with pytest.raises(RuntimeError, match="lost"), DrawsLog(run, [logger]).opened():
        raise RuntimeError("lost")
    assert logger.told == ["failed"]
