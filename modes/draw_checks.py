"""What a run over draws refuses: tasks that are no few-shot heads, draws that are all one, callbacks it cannot call."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Sequence
from typing import Any

from lit_modules.fewshot.base import FewShotModule
from modes import build
from modes.binding import locate
from modes.life import Settings
from records.errors import UserError
from records.notices import RunWarning

USED_CALLBACKS = ("progress", "recognition_pictures", "few_shot_pictures", "wandb_tables")
"""Callbacks whose part a run over draws does itself; null leaves it out."""
TRAINING_CALLBACKS = ("seeding", "table", "throughput", "finite", "training_images", "pictures", "best", "last")
"""The other default callbacks: what they watch does not happen here."""


def refuse_other_tasks(settings: Settings, count: int) -> None:
    """Raise UserError where the task is no few-shot head; its runs of `count` seeds are a sweep."""
    if build.is_few_shot_head(settings):
        return
    raise UserError(
        f"mode=draws solves few-shot heads on features, and task={settings['task']['name']} {_what_it_is(settings)}; "
        f"its runs of several seeds are a sweep: {_sweep(settings, count)}"
    )


def _what_it_is(settings: Settings) -> str:
    target = locate(settings["task"]["_target_"])
    if inspect.isclass(target) and issubclass(target, FewShotModule):
        return "is several heads, fitted one after another"
    if getattr(target, "fits_at_once", False):
        return "is no such head, though it is fitted at once"
    if settings["task"].get("freeze") == "all":
        return "judges weights that were trained before"
    return "is trained step by step"


def _sweep(settings: Settings, count: int) -> str:
    first = settings["seed"]
    return f"python run.py -m task={settings['task']['name']} seed={','.join(map(str, range(first, first + count)))}"


def refuse_callbacks(settings: Settings, overrides: Sequence[str], count: int) -> None:
    """Raise UserError where a callback is added, or set, that a run without a trainer would leave out in silence."""
    known = (*USED_CALLBACKS, *TRAINING_CALLBACKS)
    added = [name for name, node in settings["callbacks"].items() if node is not None and name not in known]
    changed = [found[1] for one in overrides if (found := re.match(r"[+~]*callbacks\.(\w+)\.", one))]
    for name in dict.fromkeys((*added, *changed)):
        raise UserError(
            f"callbacks.{name}: mode=draws has no trainer that callbacks could watch. Take it back "
            f"({f'callbacks.{name}=null' if name in added else f'no callbacks.{name}.KEY'}), or use it in runs of one "
            f"draw each: {_sweep(settings, count)}. What can be left out here by callbacks.NAME=null: "
            f"{', '.join(USED_CALLBACKS)}"
        )


def check_draws_differ(per_draw: Sequence[Settings], fingerprints: Sequence[str]) -> None:
    """See to it that draws are draws: an interval over one and the same support set would say nothing.

    Args:
        per_draw: the settings of every draw.
        fingerprints: of the data of every draw.

    Raises:
        UserError: all draws are one, and the head has no seed of its own by which its fits would differ.

    Warns:
        RunWarning: all draws are one and the fits differ by the head's seed alone; or some draws are equal.
    """
    count, different = len(fingerprints), len(set(fingerprints))
    if different == count:
        return
    if different > 1:
        _warn(
            f"{count} draws are {different} different ones: there are few samples to draw from, and the interval, "
            "which takes them for independent, is too narrow"
        )
        return
    reason, mend = _what_fixes_the_draw(per_draw)
    task = per_draw[0]["task"]
    if len({settings["task"].get("seed") for settings in per_draw}) > 1:
        _warn(
            f"the draw is fixed: {reason}. The {count} fits of task={task['name']} differ by its own seed alone, and "
            f"the interval is that over such seeds, not over draws. For draws {mend}"
        )
        return
    raise UserError(
        f"draws={count}: all of them are one and the same, since {reason}; {mend}. That one by itself: python run.py "
        f"mode=train task={task['name']}"
    )


def _what_fixes_the_draw(per_draw: Sequence[Settings]) -> tuple[str, str]:
    """Return why no seed changes the draw, and what does."""
    data = per_draw[0]["data"]
    if _is_same(per_draw, "split_file") and data.get("split_file") is not None:
        return (
            f"data.split_file={data['split_file']} holds one draw",
            "leave it out, or name a file for each seed (data.split_file='DRAW-${seed}.json')",
        )
    if data.get("layout") == "tip_adapter":
        return (
            "data.layout=tip_adapter: a cache is one support set",
            "take the features of all training images (data.layout=npz)",
        )
    if "split_seed" in data and _is_same(per_draw, "split_seed"):
        return f"data.split_seed={data['split_seed']} is typed", "leave it out: it follows the seed of each draw"
    if data.get("shots", 0) is None:
        return "data.shots=null takes every training image", "choose a number of data.shots"
    return f"data={data['name']} gives every seed the same images", "choose fewer data.shots, or other data"


def _is_same(per_draw: Sequence[Settings], key: str) -> bool:
    values: list[Any] = [settings["data"].get(key) for settings in per_draw]
    return values == values[:1] * len(values)


def _warn(text: str) -> None:
    warnings.warn(text, RunWarning, stacklevel=3)
