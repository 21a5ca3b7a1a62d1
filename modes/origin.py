"""The run that weights come from, held against the one that starts from them: classes, classifier, images it saw."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules.sampling.splits import Splits, read_split_file
from lit_modules.initial_weights import KEY, OWN_CLASSIFIER, InitialWeights
from records.errors import UserError
from records.labels_file import read_labels
from records.notices import RunWarning
from records.run_directory import RunDirectory

JUDGED_PARTS = ("validation", "test", "query")
"""Parts that no weights may have been trained on; a retrieval database often holds the training images on purpose."""


def run_of_checkpoint(file: Path) -> RunDirectory | None:
    """Return the run directory that a checkpoint file lies in; None for a file of other code."""
    run = RunDirectory(file.absolute().parent.parent)
    return run if run.config.is_file() else None


def check_classes(run: RunDirectory, class_names: Sequence[str], loaded: Sequence[str], is_trained: bool) -> None:
    """Compare a run's classes with those of the data, where its classifier was loaded.

    Args:
        run: where the weights come from.
        class_names: those of the data, C of them.
        loaded: names of the head's parameters that were loaded.
        is_trained: whether the classifier is trained further.

    Raises:
        UserError: the same classes in another order, or other classes and nothing is trained.

    Warns:
        RunWarning: other classes.
    """
    known = read_labels(run)
    if known is None or not any(name.startswith(OWN_CLASSIFIER) for name in loaded):
        return
    others = [(old, new) for old, new in zip(known.class_names, class_names, strict=False) if old != new]
    if not others:
        return
    old, new = others[0]
    problem = (
        f"{KEY}={run.path}: {len(others)} of its {known.num_classes} classes are others than those of the data (the "
        f"first is {old!r} there and {new!r} here), so its classifier means other classes"
    )
    if sorted(known.class_names) == sorted(class_names):
        raise UserError(f"{problem}: they are the same in another order; start without it (init_parts=backbone)")
    if not is_trained:
        raise UserError(f"{problem}, and freeze=all judges it as it is; leave freeze out, or test that run (mode=test)")
    warnings.warn(
        f"{problem}; it is only where training starts. Start without it by init_parts=backbone",
        RunWarning,
        stacklevel=4,
    )


def check_classifier(
    run: RunDirectory | None, task: Mapping[str, Any], initial: InitialWeights, is_trained: bool
) -> None:
    """Compare the kind of the classifier that was loaded with the task's: their weights have the same names and shapes.

    Args:
        run: where the weights come from; None for a file of other code, of whose kind a bias alone tells.
        task: the task's settings.
        initial: what was loaded.
        is_trained: whether the classifier is trained further.

    Raises:
        UserError: another kind or scale than in the run, and nothing is trained.

    Warns:
        RunWarning: another kind or scale, and it is trained further; or a bias that the other side lacks.
    """
    if "classifier" not in task or not any(name.startswith(OWN_CLASSIFIER) for name in initial.loaded):
        return
    known = {} if run is None else _stored_task(run)
    if "classifier" not in known:
        _warn_of_bias(initial)
        return
    theirs, own = _classifier(known), _classifier(task)
    if theirs == own:
        return
    problem = (
        f"{KEY}={run.path if run else initial.file}: its classifier is {_words(theirs)} and this task's {_words(own)}, "
        "so the same weights give other logits"
    )
    mend = f"set {' '.join(f'task.{key}={value}' for key, value in theirs.items())}"
    if not is_trained:
        raise UserError(f"{problem}, and freeze=all judges what was never trained; {mend}")
    warnings.warn(
        f"{problem}: what is reported of before, if anything, is not what that run scored; {mend}, or leave its head "
        "out (init_parts=backbone)",
        RunWarning,
        stacklevel=4,
    )


def _stored_task(run: RunDirectory) -> Mapping[str, Any]:
    """Return the task's settings in a run's config.yaml; none where other code has written it."""
    try:
        stored = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}
    task = stored.get("task") if isinstance(stored, Mapping) else None
    return task if isinstance(task, Mapping) else {}


def _classifier(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task's settings say of its classifier; a scale is the cosine classifier's alone."""
    keys = ("classifier", "scale") if task["classifier"] == "cosine" else ("classifier",)
    return {key: task[key] for key in keys if key in task}


def _words(classifier: Mapping[str, Any]) -> str:
    scale = f" with scale {classifier['scale']}" if "scale" in classifier else ""
    return f"{classifier['classifier']}{scale}"


def _warn_of_bias(initial: InitialWeights) -> None:
    bias = f"{OWN_CLASSIFIER}bias"
    if bias in initial.unused:
        difference = "has a bias and this task's cosine classifier none; set task.classifier=linear"
    elif bias in initial.missing:
        difference = (
            "has no bias and this task's linear one has; if it is a cosine classifier, set task.classifier=cosine and "
            "task.scale"
        )
    else:
        return
    warnings.warn(
        f"{KEY}={initial.file}: its classifier {difference}, or leave its head out (init_parts=backbone)",
        RunWarning,
        stacklevel=5,
    )


def warn_of_seen_images(run: RunDirectory, data: Any) -> None:
    """Warn where a run was trained on images that the data hold out or test on, by the split files of both.

    Warns:
        RunWarning: says how many images of which part.
    """
    own: Splits | None = getattr(data, "splits", None)
    if own is None:
        return
    for file in sorted((run.path / "splits").glob("*.json")):
        theirs = read_split_file(file)
        seen = {} if theirs.data_fingerprint != own.data_fingerprint else seen_images(own, theirs)
        if seen:
            counts = ", ".join(
                f"{count:,} of {len(own.parts[part]):,} of the {part} part" for part, count in seen.items()
            )
            warnings.warn(
                f"{KEY}={run.path}: that run was trained on images that this one judges by: {counts}. What is measured "
                "on them is too good; give both runs the same data.val_fraction, data.fold and data.split_seed",
                RunWarning,
                stacklevel=4,
            )


def seen_images(own: Splits, theirs: Splits) -> dict[str, int]:
    """Return, for each part that is judged, how many of its images are in the other splits' training part."""
    trained_on = theirs.parts.get("train", torch.empty(0, dtype=torch.int64))
    counts = {name: int(torch.isin(own.parts[name], trained_on).sum()) for name in JUDGED_PARTS if name in own.parts}
    return {name: count for name, count in counts.items() if count}
