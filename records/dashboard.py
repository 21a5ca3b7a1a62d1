"""What a dashboard at Weights & Biases shows of a project: its sections and panels, before W&B is asked. Torch-free."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from records.metric_names import (
    CLASS_MEANS,
    CODE_STATISTICS,
    HEADLINE,
    NEAREST,
    OPEN_DOMAIN,
    SHOT_GROUPS,
    WITHIN_RADIUS,
)
from records.run_directory import RunDirectory
from records.wandb_names import (
    CLASS_TABLE,
    CONFUSION,
    GALLERY_TABLE,
    PRE_SIGN,
    PRECISION_RECALL,
    STEP,
    Chart,
    picture_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Kind = Literal["lines", "bars", "points", "chart", "pictures", "table", "settings"]

TASK, SHOTS, GROUP = "task.name", "data.shots", "Group"

_MEANINGS: dict[Kind, str] = {
    "lines": "lines over training steps",
    "bars": "bars, one for each run or group",
    "points": "points over the setting",
    "chart": "chart of a logged table",
    "pictures": "pictures",
    "table": "table",
    "settings": "a table beside each other",
}
_PLOTS = RunDirectory(Path())


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: what is drawn.
        title: over the panel.
        names: what was logged and is drawn, by full names; none for `settings`.
        over: the setting on the x axis of `points`; the step of `lines`.
    """

    kind: Kind
    title: str
    names: tuple[str, ...] = ()
    over: str = ""


@dataclass(frozen=True)
class Section:
    """Panels under a heading, of the runs of some tasks; of all runs where `tasks` is empty."""

    name: str
    panels: tuple[Panel, ...]
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dashboard:
    """The whole of it.

    Attributes:
        project: W&B project.
        entity: user or team; None for the account's own.
        name: title.
        sections: from top to bottom.
        group_by: by what runs are grouped, the outermost first: settings, and `Group`, which is the sweep.
        columns: metrics that stand beside each run.
    """

    project: str
    entity: str | None
    name: str
    sections: tuple[Section, ...]
    group_by: tuple[str, ...] = (TASK, GROUP)
    columns: tuple[str, ...] = ()


def dashboard_of(
    project: str, entity: str | None, name: str, tasks: Mapping[str, Sequence[str]], cuts: Sequence[str]
) -> Dashboard:
    """Choose sections and panels.

    Args:
        project: W&B project.
        entity: user or team; None for the account's own.
        name: title.
        tasks: pillar (`hashing`, `longtail`, `fewshot`) to the names of its tasks; each has a section.
        cuts: the ranks at which protocols cut mean average precision: `all`, `5000`, ...
    """
    pillars = [_PILLARS[pillar](tuple(names), cuts) for pillar, names in tasks.items()]
    shown = {one for section in pillars for panel in section.panels for one in panel.names}
    first = [f"test/map@{cut}" for cut in cuts] + [f"test/{one}" for one in HEADLINE]
    columns = tuple(one for one in dict.fromkeys(first) if one in shown)
    return Dashboard(project, entity, name, (_training(), *pillars), columns=columns)


def _training() -> Section:
    panels = (
        _lines("Loss of the training part", "train/loss"),
        _lines("Images per second", "train/images_per_second"),
        _lines("Share of the time spent waiting for data", "train/data_wait"),
        _pictures("Training images before and after augmentation", "train", _PLOTS.training_images),
        Panel("settings", "Settings in which the runs differ"),
    )
    return Section("Training", panels)


def _hashing(tasks: tuple[str, ...], cuts: Sequence[str]) -> Section:
    maps = [f"map@{cut}" for cut in cuts]
    panels = (
        _lines("Mean average precision of the validation part", *_of("val", maps)),
        _bars("Mean average precision of the test part", maps),
        _bars("Precision, recall and NDCG of the nearest N", NEAREST),
        _bars("Precision and recall within Hamming radius 2", WITHIN_RADIUS),
        _chart(PRECISION_RECALL),
        _pictures("Precision and recall by Hamming radius", "test", _PLOTS.pr_curve),
        _pictures("Queries and their nearest pictures", "test", _PLOTS.gallery),
        Panel("table", "Queries and their nearest pictures, as a table", (GALLERY_TABLE,)),
        _lines("Statistics of the bits of the validation part", *_of("val", CODE_STATISTICS)),
        _bars("Statistics of the bits of the test part", CODE_STATISTICS),
        _pictures("Balance and correlation of the bits", "test", _PLOTS.bits),
        _lines("Values before the sign", PRE_SIGN),
    )
    return Section("Hashing", panels, tasks)


def _longtail(tasks: tuple[str, ...], cuts: Sequence[str]) -> Section:
    panels = (
        _lines("Accuracy of the validation part", *_of("val", ["accuracy", "balanced_accuracy"])),
        _lines("Means of the classes' recalls of the validation part", *_of("val", CLASS_MEANS)),
        _bars("Accuracy of classes with many, medium and few training images", SHOT_GROUPS),
        _bars("Accuracy, geometric and harmonic mean, lowest recall", ["accuracy", *CLASS_MEANS]),
        _bars("Classes that are never recognised", ["zero_recall_classes"]),
        _bars("Expected calibration error", ["ece"]),
        Panel("table", "Every class", (CLASS_TABLE,)),
        _chart(CONFUSION),
        _pictures("Recall of every class", "test", _PLOTS.class_recalls),
        _pictures("Which class is taken for which", "test", _PLOTS.confusion),
        _pictures("Accuracy by confidence", "test", _PLOTS.reliability),
        _pictures("Means of recalls by epoch", "test", _PLOTS.recall_curves),
    )
    return Section("Long tail", panels, tasks)


def _fewshot(tasks: tuple[str, ...], cuts: Sequence[str]) -> Section:
    panels = (
        Panel("points", "Accuracy over shots", ("test/accuracy",), over=SHOTS),
        _bars("Accuracy", ["accuracy"]),
        _bars("Accuracy on seen and unseen classes, harmonic mean", OPEN_DOMAIN),
        _bars("Geometric and harmonic mean of the classes' recalls, lowest recall", CLASS_MEANS),
        _chart(CONFUSION),
        _pictures("Which class is taken for which", "test", _PLOTS.confusion),
        _pictures("Pairs of classes that are confused most", "test", _PLOTS.hardest_pairs),
        _pictures("Best guesses beside images", "test", _PLOTS.guesses),
        _pictures("Cosines between images and descriptions of classes", "test", _PLOTS.text_cosines),
        Panel("table", "Every class", (CLASS_TABLE,)),
    )
    return Section("Few-shot", panels, tasks)


_PILLARS: dict[str, Callable[[tuple[str, ...], Sequence[str]], Section]] = {
    "hashing": _hashing,
    "longtail": _longtail,
    "fewshot": _fewshot,
}
PILLARS = tuple(_PILLARS)
"""The folders of methods that have a section."""


def _of(part: str, names: Iterable[str]) -> list[str]:
    return [f"{part}/{name}" for name in names]


def _lines(title: str, *names: str) -> Panel:
    return Panel("lines", title, names, over=STEP)


def _bars(title: str, names: Iterable[str]) -> Panel:
    return Panel("bars", title, tuple(_of("test", names)))


def _chart(chart: Chart) -> Panel:
    return Panel("chart", chart.title, (chart.name,))


def _pictures(title: str, stage: Literal["train", "test"], path: Path) -> Panel:
    return Panel("pictures", title, (picture_name(stage, path),))


def as_json(dashboard: Dashboard) -> str:
    """Write a dashboard as JSON."""
    return json.dumps(asdict(dashboard), indent=2, ensure_ascii=False) + "\n"


def as_outline(dashboard: Dashboard) -> str:
    """Write a dashboard for people, in Markdown: its sections, and what each panel shows."""
    place = dashboard.project if dashboard.entity is None else f"{dashboard.entity}/{dashboard.project}"
    head = (
        f"# {dashboard.name}\n\nProject `{place}` at Weights & Biases. Runs are grouped by "
        f"{' and then by '.join(_group_text(one) for one in dashboard.group_by)}; beside each stand "
        f"{_quoted(dashboard.columns)}."
    )
    return "\n\n".join([head, *(_section_outline(section) for section in dashboard.sections)]) + "\n"


def _section_outline(section: Section) -> str:
    lines = [f"## {section.name}", ""]
    if section.tasks:
        lines += [f"Tasks: {', '.join(section.tasks)}.", ""]
    return "\n".join([*lines, *(_panel_outline(panel) for panel in section.panels)])


def _panel_outline(panel: Panel) -> str:
    over = f" `{panel.over}`" if panel.kind == "points" else ""
    what = f": {_quoted(panel.names)}" if panel.names else ""
    return f"- **{panel.title}**, {_MEANINGS[panel.kind]}{over}{what}"


def _group_text(key: str) -> str:
    return "sweep" if key == GROUP else "task" if key == TASK else f"`{key}`"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
