"""What a run says on screen: one page before it starts, one table when it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lit_modules.base import TaskModule
from lit_modules.fewshot.base import FewShotModule
from lit_modules.optimization import count_parameters
from modes.encoding import makes_features
from records.console import console, is_quiet, tell
from records.draws import Draw, statistics_of
from records.metric_names import bare, interval_of, is_bound, is_count, title_of
from records.result import Result
from records.run_directory import RunDirectory
from records.statistic import Statistic


def gpu_names(trainer: Trainer) -> list[str]:
    """Return the name of each GPU a trainer uses on this machine."""
    if trainer.strategy.root_device.type != "cuda":
        return []
    return [torch.cuda.get_device_name(device) for device in trainer.device_ids]


def device_name(trainer: Trainer) -> str:
    """Return the devices a trainer uses, in words."""
    names = ", ".join(gpu_names(trainer)) or f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return f"{names}, precision {trainer.precision}"


@rank_zero_only
def say(text: str) -> None:
    """Print one line by the way, on the first rank alone."""
    console().print(text, soft_wrap=True, highlight=False, markup=False)


@rank_zero_only
def show_start(settings: Mapping[str, Any], task: TaskModule, data: Any, trainer: Trainer, run: RunDirectory) -> None:
    """Print what is about to run: task, model, data with sizes, parameters, epochs, device, directory."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in data.sizes.items())
    rows = {
        "task": f"{settings['task']['name']}, seed {settings['seed']}",
        "model": model_name(settings, task),
        "data": f"{settings['data']['name']}: {sizes}; {data.num_classes} classes",
        **_training(settings, task, data, trainer),
        "device": device_name(trainer),
        "directory": str(run.path),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows.items():
        grid.add_row(f"[bold]{name}", text)
    console().print(Panel(grid, title="run", title_align="left", border_style="cyan"))


def model_name(settings: Mapping[str, Any], task: TaskModule) -> str:
    """Return the backbone and where its weights come from, in words; or that the data pass it by."""
    if isinstance(task, FewShotModule) and not makes_features(settings):
        return "not looked through: the data are features already"
    backbone = task.backbone
    return f"{backbone.name} at {backbone.image_size} px, weights: {backbone.pretrained.source}"


def _training(settings: Mapping[str, Any], task: TaskModule, data: Any, trainer: Trainer) -> dict[str, str]:
    if task.fits_at_once:
        return {"training": "fitted at once: no parameter is trained in steps, and there is no epoch to choose"}
    total, trainable = count_parameters(task.parameters())
    return {
        "parameters": f"{trainable:,} trainable of {total:,}",
        "training": f"{_epochs(trainer.max_epochs)}, batch size {settings['data']['batch_size']}",
        "selection": _selection(settings, data),
    }


def _epochs(count: int | None) -> str:
    if count is None or count < 0:
        return "epochs without end"
    return "1 epoch" if count == 1 else f"{count} epochs"


def _selection(settings: Mapping[str, Any], data: Any) -> str:
    if not data.has_validation or settings["trainer"]["limit_val_batches"] == 0:
        return "no validation part: the last epoch counts"
    return f"the epoch with the best val/{settings['task']['monitor']}"


def show_end(result: Result, run: RunDirectory) -> None:
    """Print the metrics of the test part, the time, and where everything lies; in quiet mode the first metric alone."""
    if is_quiet():
        tell(f"{_title(result)}: {_first_metric(result)}")
    else:
        console().print(_end_table(result))
        tell(f"run directory: {run.path}")
    tell(f"report: {run.report}")


def _title(result: Result) -> str:
    mark = " (transductive)" if result.is_transductive else ""
    return f"{result.task} / {result.model} / {result.data}{mark}"


def _first_metric(result: Result) -> str:
    """Write the metric that the run is judged by, or the first one that was measured."""
    judged = None if result.monitor is None else f"test/{bare(result.monitor['name'])}"
    names = [name for name in result.metrics if name.startswith("test/")]
    if not names:
        return result.status
    name = judged if judged in names else names[0]
    return f"{title_of(name)} {metric_text(name, result.metrics)}"


def _end_table(result: Result) -> Table:
    table = Table(title=_title(result), title_justify="left")
    table.add_column("metric")
    has_intervals = any(is_bound(name, result.metrics) for name in result.metrics)
    table.add_column(Text("value [95 % interval]" if has_intervals else "value"), justify="right")
    for name in result.metrics:
        if name.startswith("test/") and not is_bound(name, result.metrics):
            table.add_row(title_of(name), Text(metric_text(name, result.metrics)))
    table.add_section()
    trained = result.checkpoint_used or "last"
    table.add_row("weights", trained if result.is_trained_in_steps else "not trained in steps")
    table.add_row("training", f"{result.seconds['training']:.1f} s")
    table.add_row("testing", f"{result.seconds['testing']:.1f} s")
    table.add_section()
    for name, value in result.protocol.items():
        table.add_row(name.replace("_", " "), Text(str(value)))
    return table


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """Write a metric, and behind it its 95 % interval where it has one."""
    value, interval = metrics[name], interval_of(name, metrics)
    if is_count(name):
        return f"{value:,.0f}"
    return f"{value:.4f}" if interval is None else f"{value:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"


@rank_zero_only
def show_draws_start(settings: Mapping[str, Any], num_classes: int, protocol: Mapping[str, Any], device: str) -> None:
    """Print in one line what draws are about to be judged."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in protocol.items())
    say(f"{settings['task']['name']} on {settings['data']['name']}, {num_classes} classes: {told}; on {device}")


@rank_zero_only
def show_draws(result: Result, draws: Sequence[Draw], run: RunDirectory) -> None:
    """Print mean, 95 % interval, lowest and highest of every test metric, and where everything lies."""
    found = {name: one for name, one in statistics_of(draws).items() if name.startswith("test/")}
    title = f"{_title(result)}, {len(draws)} draws"
    if is_quiet():
        tell("; ".join(f"{title}: {title_of(name)} {_with_interval(one)}" for name, one in list(found.items())[:1]))
    else:
        console().print(_draws_table(title, found, draws, result))
        tell(f"every draw: {run.draws}")
    tell(f"report: {run.report}")


def _draws_table(title: str, found: Mapping[str, Statistic], draws: Sequence[Draw], result: Result) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("metric", "mean ± 95 %", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, one in found.items():
        values = [draw.metrics[name] for draw in draws]
        cells = (_with_interval(one), f"{min(values):.4f}", f"{max(values):.4f}")
        table.add_row(title_of(name), *map(Text, cells))
    table.add_section()
    for what, phase in (("fits", "training"), ("judging", "testing"), ("whole run", "whole")):
        table.add_row(what, f"{result.seconds[phase]:.1f} s", "", "")
    return table


def _with_interval(found: Statistic) -> str:
    return f"{found.mean:.4f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.4f}")
