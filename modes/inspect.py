"""mode=inspect: what a run would train on, with what, for how long, before it is paid for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from callbacks.step_times import StepTimes
from callbacks.training_images import training_images
from lit_modules.base import TaskModule
from lit_modules.cost import PartCost, costs, count_operations, learning_rates
from modes import build, encoders, screen
from modes.cached_features import caches_features
from modes.encoding_cost import EncodingCost, EncodingSurvey
from modes.initial import frozen_part
from modes.life import EXIT_DONE, EXIT_INTERRUPTED, Settings
from modes.train import interruptible, quieten_lightning
from records.atomic_file import write_text
from records.canvas import Picture
from records.console import console, tell
from records.data_figures import class_counts_picture, learning_rate_picture
from records.duration import duration
from records.html_page import as_html
from records.markdown import inline, table
from records.notices import collect_run_warnings

SKIPPED = 5
COUNTED_IMAGES = 2
KEPT_CALLBACKS = ("seeding", "progress")


@dataclass(frozen=True)
class StepCost:
    """What the timed steps say: seconds of a step (median), steps of an epoch, epochs, and memory in bytes."""

    seconds: float
    spread: tuple[float, float]
    timed: int
    steps: int
    epochs: int
    peak_bytes: int
    memory_of: str
    device: str

    @property
    def epoch_seconds(self) -> float:
        """Seconds that an epoch's training steps take."""
        return self.seconds * self.steps


@dataclass(frozen=True)
class Inspection:
    """All that is found out; `steps` None where no step was timed, for `why_not`."""

    what: dict[str, str]
    sizes: Mapping[str, int]
    parts: list[PartCost]
    encodings: list[EncodingCost]
    steps: StepCost | None
    why_not: str
    warnings: list[str]
    pictures: dict[str, Picture]


def run(config: DictConfig, overrides: list[str]) -> int:
    """Look at the run that `config` describes, write the page, print it; return the exit code.

    Raises:
        UserError: the run could not be built.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    warnings: list[str] = []
    try:
        with collect_run_warnings(warnings.append):
            inspection = look(settings, warnings)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    folder = Path(settings["paths"]["run_dir"])
    write(inspection, folder)
    show(inspection, folder)
    return EXIT_DONE


def look(settings: Settings, warnings: list[str]) -> Inspection:
    """Build the parts of the run, count, time some steps, and draw."""
    build.check(settings)
    quieten_lightning()
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    backbone = build.build_backbone(settings)
    survey = EncodingSurvey(settings["steps"])
    data, seen_through = encoders.build_data(settings, backbone, survey)
    task = build.build_task(settings, backbone, data, **encoders.supplied(seen_through))
    if frozen_part(settings) != "none":
        task.freeze_backbone()
    parts = costs(task, _operations(task, data))
    pictures = _pictures(settings, task, data)
    why_not = _why_no_steps(settings, task)
    steps = None if why_not else time_steps(settings, task, data)
    sizes = dict(data.sizes)
    return Inspection(_what(settings, task), sizes, parts, survey.found, steps, why_not, warnings, pictures)


def time_steps(settings: Settings, task: TaskModule, data: Any) -> StepCost:
    """Train the task for some steps, as the run would, and time them; nothing is written."""
    epochs, per_epoch = settings["trainer"]["max_epochs"], _batches(settings, data)
    skipped = min(SKIPPED, settings["steps"], per_epoch - 1)
    count = min(settings["steps"] + skipped, per_epoch)
    times = StepTimes(skipped)
    callbacks = {name: settings["callbacks"].get(name) for name in KEPT_CALLBACKS}
    limits = {"max_epochs": 1, "limit_train_batches": count, "limit_val_batches": 0, "profiler": None}
    limits |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "enable_checkpointing": False}
    trainer = build.build_trainer(
        {**settings, "callbacks": callbacks, "logger": {}, "trainer": {**settings["trainer"], **limits}}, data
    )
    trainer.callbacks.append(times)  # type: ignore[attr-defined]
    interruptible(lambda: trainer.fit(task, datamodule=data))
    seconds = times.seconds
    spread = (min(seconds), max(seconds))
    steps = math.ceil(per_epoch / _ranks(settings))
    memory = "of the GPU, as torch counts it" if screen.gpu_names(trainer) else "of this process"
    device = _device(settings, trainer)
    return StepCost(statistics.median(seconds), spread, len(seconds), steps, epochs, times.peak_bytes, memory, device)


def write(inspection: Inspection, folder: Path) -> None:
    """Write report.md, report.html and the pictures."""
    shown = []
    for name, picture in inspection.pictures.items():
        picture.save(folder / f"{name}.png")
        shown.append(f"### {picture.title}\n\n![{picture.title}]({name}.png)\n\n{picture.description}")
    text = page(inspection, "\n\n".join(shown))
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(text, folder))


def page(inspection: Inspection, pictures: str) -> str:
    """Return the page in Markdown."""
    sizes = [(name, f"{count:,}") for name, count in inspection.sizes.items()]
    quoted = "\n>\n".join(f"> {inline(text)}" for text in inspection.warnings)
    sections = [
        "# Before the run",
        table(("", ""), inspection.what.items()),
        quoted,
        f"## Time and memory\n\n{table(('', ''), step_rows(inspection).items())}",
        f"## Parts\n\n{table(HEAD, part_rows(inspection.parts))}\n\n{NOTE}",
        f"## Data\n\n{table(('part', 'samples'), sizes)}",
        f"## Pictures\n\n{pictures}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


HEAD = ("part", "parameters", "trained", "FLOPs of one image, forward")
NOTE = (
    "A multiplication with its addition counts as two FLOPs; products of matrices, convolutions and attention are "
    "counted. Training costs about three times the forward pass."
)


def part_rows(parts: list[PartCost]) -> list[tuple[str, str, str, str]]:
    """Return a row for every part, and the total."""
    rows = [(part.name, f"{part.parameters:,}", f"{part.trained:,}", _operations_text(part)) for part in parts]
    operations = [part.operations for part in parts]
    known = None if any(one is None for one in operations) else sum(one or 0 for one in operations)
    total = PartCost("total", sum(one.parameters for one in parts), sum(one.trained for one in parts), known)
    return [*rows, ("total", f"{total.parameters:,}", f"{total.trained:,}", _operations_text(total))]


def step_rows(inspection: Inspection) -> dict[str, str]:
    """Return what the timed batches of encoding and the timed steps say, in words."""
    steps, encodings = inspection.steps, encoding_rows(inspection.encodings)
    if steps is None:
        return {**encodings, "training not timed" if encodings else "not timed": inspection.why_not}
    low, high = steps.spread
    return {
        **encodings,
        "device": steps.device,
        "a step": f"{steps.seconds:.4f} s, median of {steps.timed} ({low:.4f} to {high:.4f} s)",
        "an epoch": f"{duration(steps.epoch_seconds)} for {steps.steps:,} training steps; evaluation is not in it",
        "the run": f"{duration(steps.epoch_seconds * steps.epochs)} for {steps.epochs} epochs",
        "memory at its highest": f"{steps.peak_bytes / 2**30:.2f} GiB {steps.memory_of}",
    }


def encoding_rows(encodings: list[EncodingCost]) -> dict[str, str]:
    """Return what encoding would cost, bank by bank and in all; nothing where nothing is encoded."""
    rows: dict[str, str] = {}
    for one in encodings:
        alike = sum(name.startswith(f"encoding {one.what}") for name in rows)
        rows[f"encoding {one.what}" + (f" ({alike + 1})" if alike else "")] = one.text
    seconds = [one.seconds for one in encodings if one.seconds is not None]
    if not any(one.lacking for one in encodings) or len(seconds) < len(encodings):
        return rows
    return {**rows, "encoding in all": f"{duration(sum(seconds), roughly=True)}, once; features are kept"}


def show(inspection: Inspection, folder: Path) -> None:
    """Print the tables and where the pictures are."""
    screen = console(highlight=False, markup=False)
    grid = Table(show_header=False, box=None, padding=(0, 2))
    for name, text in {**inspection.what, **step_rows(inspection)}.items():
        grid.add_row(name, text)
    screen.print(grid)
    table = Table(*HEAD[:1], title_justify="left")
    for name in HEAD[1:]:
        table.add_column(name, justify="right")
    for row in part_rows(inspection.parts):
        table.add_row(*row)
    screen.print(table)
    tell(f"pictures and page: {folder / 'report.html'}")


def _what(settings: Settings, task: TaskModule) -> dict[str, str]:
    return {
        "task": f"{settings['task']['name']}, seed {settings['seed']}",
        "model": screen.model_name(settings, task),
        "data": f"{settings['data']['name']}, {task.labels.num_classes} classes",
        "batch size": str(settings["data"]["batch_size"]),
    }


def _operations(task: TaskModule, data: Any) -> Callable[[str], int] | None:
    """Count on two images, as batches hold them; None for data of features, which pass the network by."""
    batch = data.training_view(0).__getitems__(list(range(min(COUNTED_IMAGES, data.sizes["train"]))))
    return count_operations(task, batch["image"]) if "image" in batch else None


def _pictures(settings: Settings, task: TaskModule, data: Any) -> dict[str, Picture]:
    counts = [int(count) for count in data.class_counts]
    drawn = {
        "training_images": training_images(data, settings["seed"], 8),
        "class_counts": class_counts_picture(counts, data.class_names, multi_label=data.multi_label),
    }
    rates = {} if task.fits_at_once else learning_rates(task, _steps(settings, data), settings["trainer"]["max_epochs"])
    if rates:
        drawn["learning_rate"] = learning_rate_picture(rates)
    return {name: picture for name, picture in drawn.items() if picture is not None}


def _why_no_steps(settings: Settings, task: TaskModule) -> str:
    if settings["steps"] < 1:
        return "steps=0"
    if task.fits_at_once:
        return f"task={settings['task']['name']} is fitted at once and takes no steps"
    if frozen_part(settings) == "all":
        return "freeze=all: nothing is trained"
    if caches_features(settings):
        return "features are computed once and the head is trained on them, in seconds an epoch"
    return ""


def _batches(settings: Settings, data: Any) -> int:
    """Return the batches of an epoch, for one process."""
    batches, limit = len(data.train_dataloader()), settings["trainer"]["limit_train_batches"]
    if limit is None:
        return batches
    return max(1, min(batches, limit if isinstance(limit, int) else int(batches * limit)))


def _ranks(settings: Settings) -> int:
    """Return how many processes share the batches of an epoch, as far as the configuration says."""
    devices, nodes = settings["trainer"]["devices"], int(settings["trainer"]["num_nodes"])
    return max(1, devices) * nodes if isinstance(devices, int) else 1


def _device(settings: Settings, trainer: L.Trainer) -> str:
    ranks = _ranks(settings)
    shared = f"; timed on one, and {ranks} will share the batches" if ranks > 1 else ""
    return screen.device_name(trainer) + shared


def _steps(settings: Settings, data: Any) -> int:
    """Return the optimizer steps of an epoch."""
    batches = math.ceil(_batches(settings, data) / _ranks(settings))
    return math.ceil(batches / int(settings["trainer"]["accumulate_grad_batches"]))


def _operations_text(part: PartCost) -> str:
    if part.operations is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if part.operations >= size:
            return f"{part.operations / size:.2f} {unit}"
    return str(part.operations)
