"""report.md and report.html: the page of a run, made from nothing but its directory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml

from records.atomic_file import write_text
from records.data_figures import class_counts_picture
from records.draws import read_draws
from records.duration import duration
from records.errors import UserError
from records.figures import training_curves_picture
from records.html_page import as_html
from records.labels_file import read_labels
from records.markdown import inline, table
from records.metric_names import HEADLINE, bare, interval_of, is_bound, is_count
from records.result import Result, read_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from records.run_directory import RunDirectory

# Told on the page by the record itself, or of no interest to a reader of results.
SETTINGS_LEFT_OUT = ("hydra", "paths", "callbacks", "logger", "sweep", "quiet")


def write_report(run: RunDirectory) -> Path:
    """Write report.md and report.html, and the pictures of curves and class counts, from the files of a run.

    Reads config.yaml, result.json, metrics.csv and labels.json where there are any, and the pictures in plots/, whose
    captions are their own PNG text (`Title`, `Description`).

    Returns:
        The path of report.md.

    Raises:
        UserError: config.yaml or result.json is missing or damaged.
    """
    result = read_result(run.result)
    config = _read_config(run.config)
    if run.metrics.is_file():
        curves = training_curves_picture(run.metrics)
        if curves is not None:
            curves.save(run.training_curves)
    labels = read_labels(run)
    if labels is not None and labels.class_counts:
        class_counts_picture(labels.class_counts, labels.class_names, multi_label=labels.multi_label).save(
            run.class_counts
        )
    sections = [
        _title(result),
        _warnings(result),
        _headline(result),
        _draws(run, result),
        _pictures(run),
        _data(result),
        _settings(config),
        _all_metrics(result),
        _environment(result),
        _commands(result),
    ]
    page = "\n\n".join(section for section in sections if section) + "\n"
    write_text(run.report, page)
    write_text(run.html_report, as_html(page, run.path))
    return run.report


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the run has no configuration. Name the folder of a run: run=FOLDER.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error}). Restore the file or run again.") from None
    return config if isinstance(config, dict) else {}


def _title(result: Result) -> str:
    lines = [
        f"# {result.task}, {result.model}, {result.data}",
        "",
        f"Status: **{result.status}**. Seed {result.seed}. Started {result.started}. {_times(result)}",
    ]
    if result.reason:
        lines += ["", f"Reason: {inline(result.reason)}"]
    return "\n".join(lines)


def _times(result: Result) -> str:
    spent = [f"{phase} {duration(result.seconds[phase])}" for phase in ("training", "testing", "whole")]
    text = f"Time: {', '.join(spent)}."
    if result.resumed_from:
        before = sum(attempt["seconds"]["whole"] for attempt in result.resumed_from)
        text += f" Resumed {len(result.resumed_from)} time(s), {duration(before)} before."
    return text


def _warnings(result: Result) -> str:
    texts = [text for attempt in result.resumed_from for text in attempt["warnings"]]
    texts = list(dict.fromkeys([*texts, *result.warnings]))
    if not texts:
        return ""
    quoted = "\n>\n".join(f"> {inline(text)}" for text in texts)
    return f"> **Warnings of this run**\n>\n{quoted}"


def _headline(result: Result) -> str:
    monitor = result.monitor
    chosen = () if monitor is None else (bare(monitor["name"]),)
    names = dict.fromkeys((*chosen, *HEADLINE))
    rows = [(name, _text(key, result.metrics)) for name in names if (key := f"test/{name}") in result.metrics]
    if monitor is not None and monitor.get("value") is not None:
        chosen_by = f"best {monitor['name']} ({monitor['direction']})"
        rows.append((chosen_by if result.is_trained_in_steps else monitor["name"], _number(monitor["value"])))
    if not rows:
        return "## Result\n\nNo test result was recorded."
    head = ("metric (test part, fractions)", _value_head(result.metrics))
    return f"## Result\n\n{table(head, rows)}{_judged(result)}"


def _judged(result: Result) -> str:
    if not result.is_trained_in_steps:
        return "\n\nNothing was trained in steps, so there was no epoch to choose."
    return f"\n\nTested on the **{result.checkpoint_used}** checkpoint." if result.checkpoint_used else ""


def _draws(run: RunDirectory, result: Result) -> str:
    """Tell the draws of a run that judged several, and what its figures are."""
    draws = read_draws(run.draws)
    if not draws:
        return ""
    chosen = () if result.monitor is None else (f"test/{bare(result.monitor['name'])}",)
    names = dict.fromkeys((*chosen, *(f"test/{name}" for name in HEADLINE)))
    shown = [name for name in names if all(name in draw.metrics for draw in draws)]
    rows = [(str(draw.seed), *(_number(draw.metrics[name]) for name in shown)) for draw in draws]
    note = f"The figures of this page are means of {len(draws)} draws, with Student's 95 % interval over the draws."
    return f"## Draws\n\n{note} Every metric: [draws.csv](draws.csv).\n\n{table(('seed', *shown), rows)}"


def _pictures(run: RunDirectory) -> str:
    first = (run.training_images, run.class_counts, run.training_curves)
    found = run.plots.glob("*.png") if run.plots.is_dir() else ()
    files = sorted(found, key=lambda file: (first.index(file) if file in first else len(first), file.name))
    if not files:
        return ""
    shown = [_picture(run, file) for file in files]
    return "## Pictures\n\n" + "\n\n".join(shown)


def _picture(run: RunDirectory, file: Path) -> str:
    title, description = _caption(file)
    place = file.relative_to(run.path).as_posix()
    return f"### {inline(title)}\n\n![{inline(title)}]({place})\n\n{inline(description)}".rstrip()


def _caption(file: Path) -> tuple[str, str]:
    from PIL import Image

    with Image.open(file) as image:
        texts = {name: str(text) for name, text in image.info.items() if isinstance(text, str)}
    return texts.get("Title", file.stem), texts.get("Description", "")


def _data(result: Result) -> str:
    if not result.data_sizes:
        return ""
    rows = [(name, f"{count:,}") for name, count in result.data_sizes.items()]
    classes = "" if result.num_classes is None else f"{result.num_classes} classes. "
    protocol = "".join(f"{name.replace('_', ' ').capitalize()}: {value}. " for name, value in result.protocol.items())
    mark = "" if result.fingerprint is None else f"Fingerprint of the splits: `{result.fingerprint}`."
    return f"## Data\n\n{table(('part', 'images'), rows)}\n\n{classes}{protocol}{mark}".rstrip()


def _settings(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in SETTINGS_LEFT_OUT}
    rows = [(f"`{name}`", f"`{inline(str(value))}`") for name, value in _leaves(kept)]
    if not rows:
        return ""
    source = "The whole configuration is in [config.yaml](config.yaml)."
    return f"## Settings\n\n{source}\n\n{table(('key', 'value'), rows)}"


def _leaves(node: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{place}.{name}" if place else str(name))
    elif node != {}:
        yield place, node


def _all_metrics(result: Result) -> str:
    metrics = result.metrics
    rows = [(f"`{name}`", _text(name, metrics)) for name in sorted(metrics) if not is_bound(name, metrics)]
    return f"## All metrics\n\n{table(('metric', _value_head(metrics)), rows)}" if rows else ""


def _environment(result: Result) -> str:
    rows: list[tuple[str, str]] = []
    machine = result.hardware
    rows.append(("processor", f"{machine.get('cpu')}, {machine.get('cores')} cores used"))
    rows.append(("memory", f"{machine.get('memory_gib')} GiB"))
    rows.append(("GPUs", ", ".join(machine.get("gpus", [])) or "none"))
    rows.append(("system", str(machine.get("system"))))
    rows.append(("commit", _commit(result.git)))
    if result.parameters:
        named = [f"{count:,} {name}" for name, count in result.parameters.items()]
        rows.append(("parameters", ", ".join(named)))
    rows += [(name, version) for name, version in result.versions.items() if version is not None]
    return f"## Environment\n\n{table(('', ''), rows)}"


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "not a checkout"
    return f"`{git['commit']}`" + (" with uncommitted changes" if git["dirty"] else "")


def _commands(result: Result) -> str:
    repeat = f"Repeat:\n\n```sh\n{result.command}\n```"
    resume = f"Resume:\n\n```sh\n{result.resume_command}\n```"
    return f"## Commands\n\n{repeat}\n\n{resume}"


def _text(name: str, metrics: Mapping[str, float]) -> str:
    """Write a metric, and its 95 % interval where it has one."""
    value, interval = metrics[name], interval_of(name, metrics)
    if is_count(name) and math.isfinite(value):
        return f"{value:,.0f}"
    return _number(value) if interval is None else f"{_number(value)} [{', '.join(map(_number, interval))}]"


def _value_head(metrics: Mapping[str, float]) -> str:
    return "value [95 % interval]" if any(is_bound(name, metrics) for name in metrics) else "value"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else f"{value} (not a finite number)"
