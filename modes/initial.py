"""Where a new run's weights come from (`init_from`), and what of the network stays as it is (`freeze`)."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from lit_modules.backbones.weights_file import read_state_dict
from lit_modules.base import TaskModule
from lit_modules.initial_weights import KEY, OWN_CLASSIFIER, PARTS, InitialWeights, start_from
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.classifier import CLASS_SCALE
from modes.life import Settings
from modes.origin import check_classes, check_classifier, run_of_checkpoint, warn_of_seen_images
from records.errors import UserError
from records.notices import RunWarning
from records.run_directory import RunDirectory, last_stage

Frozen = Literal["none", "backbone", "all"]
FREEZE: tuple[Frozen, ...] = ("none", "backbone", "all")


def apply_initial_weights(settings: Settings, task: TaskModule, data: Any, is_resumed: bool) -> None:
    """Load what `init_from` names into a new run's task, and freeze what `freeze` says.

    Raises:
        UserError: an unknown choice, or weights that cannot be read or do not fit.

    Warns:
        RunWarning: what is tested was not trained, was trained on other classes, with another classifier, or on images
            that this run judges.
    """
    _check_choice("init_parts", settings["init_parts"], PARTS)
    if settings["init_from"] is not None:
        file = checkpoint_of_source(Path(settings["init_from"]))
        if is_resumed:
            # the checkpoint of this run holds the weights; their origin may be gone by now
            task.backbone.pretrained = replace(task.backbone.pretrained, used=True, source=f"init_from {file.name}")
        else:
            _load(settings, task, data, file)
    if frozen_part(settings) != "none":
        _freeze(settings, task)


def _load(settings: Settings, task: TaskModule, data: Any, file: Path) -> None:
    initial = start_from(task, file, settings["init_parts"], settings["init_keys"])
    initial = _with_class_scale(task, initial, settings["init_keys"])
    is_trained = frozen_part(settings) != "all"
    run = run_of_checkpoint(file)
    check_classifier(run, settings["task"], initial, is_trained)
    untrained = (*initial.misfits, *initial.missing)
    if not is_trained and (untrained or settings["init_parts"] == "backbone"):
        warnings.warn(
            f"freeze=all: parts of the head are tested as they were drawn: {', '.join(untrained) or 'all'}",
            RunWarning,
            stacklevel=3,
        )
    if run is not None:
        check_classes(run, task.labels.class_names, initial.loaded, is_trained)
        warn_of_seen_images(run, data)


def _with_class_scale(task: TaskModule, initial: InitialWeights, keys: Mapping[str, str]) -> InitialWeights:
    """Fold the factors of the classes' logits that the file has, and the task lacks, into the classifier loaded.

    Warns:
        RunWarning: it cannot take them.
    """
    has_classifier = f"{OWN_CLASSIFIER}weight" in initial.loaded
    if CLASS_SCALE not in initial.unused or not has_classifier or not isinstance(task, LongTailModule):
        return initial
    names = [CLASS_SCALE, *(old for old, new in keys.items() if new == CLASS_SCALE)]
    state = read_state_dict(initial.file, KEY)
    if not task.take_class_scale(next(state[name] for name in names if name in state)):
        warnings.warn(
            f"{KEY}={initial.file}: its {CLASS_SCALE}, factors of the classes' logits, cannot be folded into "
            f"task.classifier={task.classifier_kind}, so what is loaded is not the classifier that was trained, and "
            "nothing is reported of before",
            RunWarning,
            stacklevel=4,
        )
        return initial
    unused = tuple(name for name in initial.unused if name != CLASS_SCALE)
    initial = replace(initial, loaded=(*initial.loaded, CLASS_SCALE), unused=unused)
    task.backbone.pretrained = replace(task.backbone.pretrained, source=initial.text)
    return initial


def _freeze(settings: Settings, task: TaskModule) -> None:
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
    task.freeze_backbone()
    if not task.backbone.pretrained.used:
        warnings.warn(
            f"freeze={frozen_part(settings)}: the backbone's weights are random, and stay so; "
            "name trained ones by init_from=RUN, model.weights_file=FILE or model.pretrained=true",
            RunWarning,
            stacklevel=3,
        )


def frozen_part(settings: Settings) -> Frozen:
    """Return what is frozen: `freeze`, or where that is null what the task says for a start from trained weights.

    Raises:
        UserError: an unknown choice.
    """
    chosen = settings["freeze"]
    if chosen is None:
        return cast(Frozen, settings["task"].get("freeze", "none")) if settings["init_from"] is not None else "none"
    _check_choice("freeze", chosen, FREEZE)
    return cast(Frozen, chosen)


def checkpoint_of_source(source: Path) -> Path:
    """Return the checkpoint that `init_from` names: a file itself, or a run's best one, else its last.

    Raises:
        UserError: a folder without a checkpoint.
    """
    if not source.is_dir():
        return source
    run = RunDirectory(last_stage(source))
    found = run.chosen_checkpoint
    if found is None:
        raise UserError(
            f"init_from={source}: no checkpoints/best.ckpt or checkpoints/last.ckpt in it; "
            "name a run directory or a checkpoint file"
        )
    return found


def _check_choice(key: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value} is not a choice; choices: {', '.join(choices)}")
