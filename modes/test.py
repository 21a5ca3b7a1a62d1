"""mode=test run=DIR: test a finished run again, on its own data or on another; results lie below its directory."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, cast

import lightning as L
from omegaconf import DictConfig, OmegaConf

from launch.paths import relocate
from modes import build, encoders, screen
from modes.encoding import makes_features
from modes.life import Settings, live
from modes.train import complete, describe, quieten_lightning, test
from records.errors import UserError
from records.result import RunRecord
from records.run_directory import RunDirectory

CHECKPOINTS = ("auto", "best", "last")
OUTPUTS = ("paths", "callbacks", "logger")
"""The parts of a configuration that say where something is written."""


def run(config: DictConfig, overrides: list[str]) -> int:
    """Test the run that `config.run` names; return the exit code."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    evaluation = Path(settings["run"]) / "evaluations" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    moved = {
        name: relocate(node, settings["paths"]["run_dir"], str(evaluation))
        for name, node in settings.items()
        if name in OUTPUTS
    }
    again = ["mode=test", *(override for override in overrides if override != "mode=test")]
    return live({**settings, **moved}, overrides, evaluate, again)


def evaluate(settings: Settings, record: RunRecord) -> None:
    """Build the parts without pretrained weights, load the checkpoint, test, and complete the record."""
    build.check(settings)
    quieten_lightning()
    trained = RunDirectory(settings["run"])
    checkpoint = checkpoint_of(trained, settings["checkpoint"])
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # the checkpoint holds every weight, so nothing needs to be fetched, unless data are made by the backbone first
    weights = {} if makes_features(settings) else {"pretrained": False, "weights_file": None}
    backbone = build.build_backbone({**settings, "model": {**settings["model"], **weights}})
    data, seen_through = encoders.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data, **encoders.supplied(seen_through))
    trainer = build.build_trainer(settings, data)
    describe(record, task, data, trainer)
    record.describe(checkpoint_used=checkpoint.stem)
    screen.show_start(settings, task, data, trainer, RunDirectory(settings["paths"]["run_dir"]))
    with record.measure("testing"):
        test(trainer, task, data, checkpoint)
    complete(record, task, trainer, RunDirectory(settings["paths"]["run_dir"]))


def checkpoint_of(run: RunDirectory, choice: str) -> Path:
    """Return the checkpoint that `choice` names: `auto` is the best one where there is one, else the last.

    Raises:
        UserError: an unknown choice, or a checkpoint that is not there.
    """
    if choice not in CHECKPOINTS:
        raise UserError(f"checkpoint={choice} is not a choice; choices: {', '.join(CHECKPOINTS)}")
    if run.draws.is_file():
        raise UserError(
            f"run={run.path} judged several draws (mode=draws) and keeps none of their heads; the run of one draw by "
            "itself does: the same command without mode=draws and draws=, with the draw's seed"
        )
    if choice == "auto":
        choice = "best" if run.best_checkpoint.is_file() else "last"
    checkpoint = run.best_checkpoint if choice == "best" else run.last_checkpoint
    if not checkpoint.is_file():
        raise UserError(
            f"run={run.path} has no checkpoints/{checkpoint.name}; train it first: mode=train run={run.path}"
        )
    return checkpoint
