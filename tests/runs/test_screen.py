from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from launch.compose import compose_config
from modes import build, screen, train
from records.console import be_quiet
from records.result import Result, read_result
from records.run_directory import RunDirectory


def trained(folder: Path, *overrides: str) -> Result:
    said = [f"paths.run_dir='{folder}'", "trainer.accelerator=cpu", *overrides]
    assert train.run(compose_config(said), said) == 0
    return read_result(folder)


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    be_quiet(False)
    yield
    be_quiet(False)


def test_a_head_that_is_fitted_at_once_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = trained(tmp_path, "task=inmap", "task.iterations=5")
    shown = capsys.readouterr().out
    assert "not looked through: the data are features already" in shown
    assert "fitted at once: no parameter is trained in steps, and there is no epoch to choose" in shown
    for wrong in ("trainable of", "tiny at", "random initialisation", "the epoch with the best"):
        assert wrong not in shown
    assert result.parameters is not None
    assert result.parameters["trainable"] == 0
    end = shown[shown.index("inmap / tiny / digits_fewshot (transductive)") :]
    assert "not trained in steps" in end
    assert "yes, the fit saw the unlabelled test images" in end
    assert f"│ {result.protocol['validation']} │".replace(" ", "") in end.replace(" ", "")
    assert "there was no epoch to choose" in RunDirectory(tmp_path).report.read_text()


def start_screen(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    config = compose_config([f"paths.run_dir='{folder}'", "trainer.accelerator=cpu", *overrides])
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    backbone = build.build_backbone(settings)
    data = build.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data)
    capsys.readouterr()
    screen.show_start(settings, task, data, build.build_trainer(settings, data), RunDirectory(folder))
    return capsys.readouterr().out


def test_a_post_hoc_hash_layer_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = start_screen(tmp_path, capsys, "task=lsh")
    assert "tiny at 32 px, weights: random initialisation" in shown
    assert "fitted at once" in shown
    assert "trainable of" not in shown
    assert "the epoch with the best" not in shown


def test_training_in_steps_is_told_by_its_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = start_screen(tmp_path, capsys, "task=greedyhash", "trainer.max_epochs=1")
    assert "97,920 trainable of 97,920" in shown
    assert "1 epoch, batch size 64" in shown
    assert "the epoch with the best val/map@all" in shown
    assert "fitted at once" not in shown
