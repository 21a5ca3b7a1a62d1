"""mode=predict run=DIR image=FILE: the classes, the code and a picture of one image, kept below the run's directory."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from launch.paths import relocate
from modes import build
from modes.image_codes import TrainedRun, open_trained
from modes.life import Settings, live
from modes.one_image import Answer, Sample, ask, check_question, class_text, read_sample
from modes.test import OUTPUTS
from modes.train import quieten_lightning
from records.atomic_file import write_json
from records.console import console, tell
from records.environment import is_first_process
from records.errors import UserError
from records.image_figures import prediction_picture
from records.result import RunRecord

MAX_TITLE = 120


def run(config: DictConfig, overrides: list[str]) -> int:
    """Put one image to the run that `config.run` names; return the exit code."""
    return live(below_run(config, "predictions"), overrides, predict, overrides, "Nothing is lost; this asks again")


def below_run(config: DictConfig, folder: str, name: str | None = None) -> Settings:
    """Return the plain settings of an action whose outputs go to RUN/folder/name; null names it by the time."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    target = Path(settings["run"]) / folder / (name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))
    moved = {
        key: relocate(node, settings["paths"]["run_dir"], str(target))
        for key, node in settings.items()
        if key in OUTPUTS
    }
    return {**settings, **moved}


def check_one_path(settings: Settings, *keys: str) -> None:
    """Raise UserError where a key that takes one path is a list."""
    for key in keys:
        if not isinstance(settings[key], str | None):
            raise UserError(f"{key} takes one folder or file, not {settings[key]}; quote a name with brackets")


def predict(settings: Settings, record: RunRecord) -> None:
    """Read the image, ask the run, write prediction.json and prediction.png, and complete the record."""
    check_one_path(settings, "image")
    check_question(settings)
    if settings["top"] < 1:
        raise UserError(f"top={settings['top']}; it must be at least 1")
    build.check(settings)
    quieten_lightning()
    trained = open_trained(settings, needs_data=settings["index"] is not None)
    sample = read_sample(trained)
    answer = ask(trained, sample)
    record.describe(checkpoint_used=trained.checkpoint.stem)
    if is_first_process():
        _write(trained, sample, answer, Path(settings["paths"]["run_dir"]))
    record.finish({})


def _write(trained: TrainedRun, sample: Sample, answer: Answer, folder: Path) -> None:
    names = trained.task.labels.class_names
    classes = answer.best(names, trained.settings["top"])
    if not classes and answer.bits is None:
        raise UserError(f"task {trained.settings['task']['name']} tells neither classes nor a code of an image")
    truth = None if sample.classes is None else class_text(sample.classes, names)
    content = {
        "image": trained.settings["image"] or sample.name,
        "class": truth,
        "classes": [{"class": name, answer.kind: score} for name, score in classes],
        "code": None if answer.bits is None else code_text(answer.bits),
        "weights": trained.fingerprint,
    }
    write_json(folder / "prediction.json", content)
    picture = prediction_picture(sample.picture, sample.name, classes, answer.bits, quantity=answer.kind, truth=truth)
    picture.save(folder / "prediction.png")
    console(soft_wrap=True, highlight=False, markup=False).print(_table(trained, sample, answer, truth))
    tell(f"{picture.description}\npicture: {folder / 'prediction.png'}")


def _table(trained: TrainedRun, sample: Sample, answer: Answer, truth: str | None) -> Table:
    table = Table(title=sample.name[:MAX_TITLE], title_justify="left")
    table.add_column("class")
    table.add_column(answer.kind, justify="right")
    for name, score in answer.best(trained.task.labels.class_names, trained.settings["top"]):
        table.add_row(Text(name), f"{score:.4f}")
    if answer.scores is None:
        table.add_row(Text("none: this task learns codes alone; mode=search shows the nearest images"), "")
    table.add_section()
    if truth is not None:
        table.add_row(Text(truth), "its own class")
    if answer.bits is not None:
        table.add_row(code_text(answer.bits), f"{len(answer.bits)} bits")
    return table


def code_text(bits: np.ndarray) -> str:
    """Write a code (K,) bool as K digits, bit 0 first."""
    return "".join("1" if bit else "0" for bit in bits)
