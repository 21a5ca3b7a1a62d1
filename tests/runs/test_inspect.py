from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.step_times import StepTimes
from launch.compose import compose_config
from modes import inspect


def inspected(tmp_path: Path, *overrides: str) -> str:
    config = compose_config(["mode=inspect", f"paths.run_dir='{tmp_path}/page'", "trainer.accelerator=cpu", *overrides])
    assert inspect.run(config, list(overrides)) == 0
    return (tmp_path / "page" / "report.md").read_text()


def test_the_page_tells_what_the_run_would_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = inspected(tmp_path, "steps=2", "trainer.max_epochs=3", "data.batch_size=256")
    names = {file.name for file in (tmp_path / "page").iterdir()}
    assert names == {
        "report.md",
        "report.html",
        "training_images.png",
        "class_counts.png",
        "learning_rate.png",
        "splits",
    }
    assert "for 6 training steps" in page
    assert "median of 2" in page
    assert "for 3 epochs" in page
    assert "| total | 97,920 | 97,920 | 20.65 M |" in page
    assert "GiB of this process" in page
    html = (tmp_path / "page" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "97,920" in capsys.readouterr().out


def test_a_task_without_steps_says_so(tmp_path: Path) -> None:
    page = inspected(tmp_path, "task=lsh")
    assert "task=lsh is fitted at once and takes no steps" in page
    assert not (tmp_path / "page" / "learning_rate.png").exists()


def test_a_frozen_backbone_is_not_trained(tmp_path: Path) -> None:
    page = inspected(tmp_path, "freeze=backbone", "steps=0")
    assert "| hash_layer | 4,128 | 4,128 |" in page
    assert "| total | 97,920 | 4,448 |" in page
    assert "the backbone's weights are random, and stay so" not in page
    assert "steps=0" in page


def test_ranks_share_the_batches() -> None:
    settings: Any = {
        "trainer": {"devices": 2, "num_nodes": 2, "accumulate_grad_batches": 2, "limit_train_batches": None}
    }
    data: Any = SimpleNamespace(train_dataloader=lambda: range(21))
    assert inspect._steps(settings, data) == 3
    settings["trainer"] |= {"devices": "auto", "limit_train_batches": 0.5}
    assert inspect._steps(settings, data) == 5


def test_steps_are_timed_from_the_end_of_the_one_before() -> None:
    moments = iter([0.0, 5.0, 6.0, 8.0, 12.0])
    times = StepTimes(skipped=1, clock=lambda: next(moments))
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    times.on_train_start(None, module)  # type: ignore[arg-type]
    for number in range(4):
        times.on_train_batch_end(None, module, None, None, number)  # type: ignore[arg-type]
    times.on_train_end(None, module)  # type: ignore[arg-type]
    assert times.seconds == [1.0, 2.0, 4.0]
    assert times.peak_bytes > 2**20
