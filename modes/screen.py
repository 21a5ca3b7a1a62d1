"""What a run says on screen: one page before it starts, one table when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lit_modules.base import TaskModule
from lit_modules.optimization import count_parameters
from records.console import console, is_quiet, tell
from records.metric_names import bare, interval_of, is_bound, is_count, title_of
from records.result import Result
from records.run_directory import RunDirectory


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
    total, trainable = count_parameters(task.parameters())
    sizes = ", ".join(f"{split} {size:,}" for split, size in data.sizes.items())
    rows = {
        "task": f"{settings['task']['name']}, seed {settings['seed']}",
        "model": f"{task.backbone.name} at {task.backbone.image_size} px, weights: {task.backbone.pretrained.source}",
        "data": f"{settings['data']['name']}: {sizes}; {data.num_classes} classes",
        "parameters": f"{trainable:,} trainable of {total:,}",
        "training": f"{_epochs(trainer.max_epochs)}, batch size {settings['data']['batch_size']}",
        "selection": _selection(settings, data),
        "device": device_name(trainer),
        "directory": str(run.path),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows.items():
        grid.add_row(f"[bold]{name}", text)
    console().print(Panel(grid, title="run", title_align="left", border_style="cyan"))


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
    return f"{result.task} / {result.model} / {result.data}"


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
    table.add_row("weights", result.checkpoint_used or "last")
    table.add_row("training", f"{result.seconds['training']:.1f} s")
    table.add_row("testing", f"{result.seconds['testing']:.1f} s")
    return table


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """Write a metric, and behind it its 95 % interval where it has one."""
    value, interval = metrics[name], interval_of(name, metrics)
    if is_count(name):
        return f"{value:,.0f}"
    return f"{value:.4f}" if interval is None else f"{value:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"
