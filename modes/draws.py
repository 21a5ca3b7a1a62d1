"""mode=draws: a few-shot head on many draws of its support set, in one process, the draws solved as one stack."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text
from torch import Tensor

from datamodules.encoded.few_shot import FewShotDataModule
from launch.run_stamp import is_restarted
from lit_modules.backbones.backbone import Backbone
from lit_modules.fewshot.head import FewShotHead
from lit_modules.fewshot.problem import chunks, problem_of, protocol_of, same_as, stacked
from lit_modules.metrics.open_domain import open_domain_metrics
from lit_modules.optimization import count_parameters
from lit_modules.precision import full_precision
from modes import build
from modes.encoding import device_of, makes_features, read_data
from modes.life import Settings, live
from modes.train import quieten_lightning, refuse_if_occupied
from records.console import console, is_quiet, say, tell
from records.draws import Draw, metrics_over, statistics_of, write_draws
from records.environment import hardware, is_first_process
from records.errors import UserError
from records.metric_names import title_of
from records.notices import RunWarning
from records.report import write_report
from records.result import Result, RunRecord
from records.run_directory import RunDirectory
from records.statistic import Statistic

DRAW_KEYS = ("seed", "split_seed", "split_file")
"""What tells the data of one draw from those of another, where all is read of the same files."""

GIB = 2**30
STACK_GIB = {"cuda": 2.0, "cpu": 0.125}
"""Memory of a stack where nothing is said: on a CPU one that outgrows the caches is slower than its draws in turn."""


def run(config: DictConfig, overrides: list[str]) -> int:
    """Fit and judge the head on every draw; return the exit code.

    Raises:
        UserError: a value is out of range, or another run lies in the directory.
    """
    if config.get("run") is not None:
        raise UserError(
            f"run={config.run}: mode=draws starts anew, in seconds; the command of the run is in its result.json"
        )
    per_draw = draw_settings(config)
    settings = per_draw[0]
    if is_first_process() and not is_restarted():
        refuse_if_occupied(RunDirectory(settings["paths"]["run_dir"]))
    again = ["mode=draws", *(one for one in overrides if one != "mode=draws")]
    return live(
        settings, overrides, partial(judge_draws, per_draw=per_draw), again, "Nothing is kept; this starts anew"
    )


def draw_settings(config: DictConfig) -> list[dict[str, Any]]:
    """Return the settings of each draw's own run: all that follows `seed` follows that draw's.

    Raises:
        UserError: `draws` or `stack_gib` is out of range.
    """
    if not isinstance(config.draws, int) or isinstance(config.draws, bool) or config.draws < 1:
        raise UserError(f"draws={config.draws}: a whole number from 1 on; the seeds are seed, seed + 1, ...")
    if config.stack_gib is not None and not config.stack_gib > 0:
        raise UserError(f"stack_gib={config.stack_gib}: it must be above 0; draws that need more are solved in turn")
    found = []
    for number in range(config.draws):
        one = config.copy()
        one.seed = config.seed + number
        found.append(cast(dict[str, Any], OmegaConf.to_container(one, resolve=True)))
    return found


def judge_draws(settings: Settings, record: RunRecord, per_draw: Sequence[Settings]) -> None:
    """Read the data once, fit and judge every draw, and complete the record.

    Raises:
        UserError: the task is no few-shot head.
    """
    build.check(settings)
    refuse_other_tasks(settings, len(per_draw))
    quieten_lightning()
    torch.manual_seed(settings["seed"])
    backbone = build.build_backbone(settings)
    data = draws_of_data(per_draw, backbone)
    run = RunDirectory(settings["paths"]["run_dir"])
    describe(record, data, backbone, per_draw)
    draws: list[Draw] = []
    for place, head in fitted(per_draw, data, record):
        with record.measure("testing"):
            metrics = judged(head, data[place], per_draw[place])
        draws.append(Draw(per_draw[place]["seed"], data[place].fingerprint, metrics))
    draws.sort(key=lambda draw: draw.seed)
    if is_first_process():
        write_draws(run.draws, draws)
    metrics = metrics_over(draws)
    record.finish(metrics, metrics.get(f"val/{settings['task']['monitor']}"))
    if is_first_process():
        write_report(run)
        show(record.result, draws, run)


def refuse_other_tasks(settings: Settings, count: int) -> None:
    """Raise UserError where the task is trained step by step."""
    if build.is_few_shot_head(settings):
        return
    name, first = settings["task"]["name"], settings["seed"]
    seeds = ",".join(map(str, range(first, first + count)))
    raise UserError(
        f"mode=draws solves few-shot heads on features, and task={name} is trained step by step; its runs of several "
        f"seeds are a sweep: python run.py -m task={name} seed={seeds}"
    )


def draws_of_data(per_draw: Sequence[Settings], backbone: Backbone) -> list[Any]:
    """Return the data of every draw; files are read, and images encoded, once."""
    first: Any = build.build_data(per_draw[0], backbone)
    if makes_features(per_draw[0]) and not backbone.pretrained.used and len(per_draw) > 1:
        warnings.warn(
            f"the encoder's weights are random: all draws see through those of seed {per_draw[0]['seed']}, a run of "
            "one draw alone through those of its own seed",
            RunWarning,
            stacklevel=2,
        )
    return [first, *(_redrawn(first, per_draw[0], settings, backbone) for settings in per_draw[1:])]


def _redrawn(first: Any, its_settings: Settings, settings: Settings, backbone: Backbone) -> Any:
    differing = {key for key, value in settings["data"].items() if value != its_settings["data"][key]}
    if not isinstance(first, FewShotDataModule) or not differing <= set(DRAW_KEYS):
        return build.build_data(settings, backbone)
    data = first.redrawn(**{key: settings["data"][key] for key in DRAW_KEYS})
    read_data(data, backbone, settings)
    return data


def fitted(per_draw: Sequence[Settings], data: Sequence[Any], record: RunRecord) -> Iterator[tuple[int, FewShotHead]]:
    """Yield the number of each draw and the head fitted to it; draws of one shape are solved together.

    What is the same for several draws, to a head that has no use for the support set, is solved once.
    """
    heads = [new_head(settings) for settings in per_draw]
    problems = [problem_of(one, head, one.num_classes) for one, head in zip(data, heads, strict=True)]
    alike = same_as(problems, [repr(settings["task"]) for settings in per_draw])
    distinct = sorted(set(alike))
    device = device_of(per_draw[0]["trainer"]["accelerator"])
    limit = stack_bytes(per_draw[0]["stack_gib"], device) if can_be_stacked(per_draw) else 0.0
    for numbers in chunks([problems[place] for place in distinct], limit):
        places = [distinct[number] for number in numbers]
        with record.measure("training"), full_precision(torch.zeros((), device=device)):
            if len(places) == 1:
                problems[places[0]].fit(heads[places[0]], device)
            else:
                stack = new_head(*(per_draw[place] for place in places))
                stacked([problems[place] for place in places]).fit(stack, device)
                for number, place in enumerate(places):
                    heads[place].state = stack.state_of(number)
        for place, own in enumerate(alike):
            if own in places:
                heads[place].state = heads[own].state
                yield place, heads[place]


def stack_bytes(stack_gib: float | None, device: str) -> float:
    """Return the memory that the draws of one stack may take."""
    return (STACK_GIB[device] if stack_gib is None else stack_gib) * GIB


def can_be_stacked(per_draw: Sequence[Settings]) -> bool:
    """Say whether the heads of all draws differ in nothing but their seed."""
    return all(_without_seed(settings) == _without_seed(per_draw[0]) for settings in per_draw)


def _without_seed(settings: Settings) -> dict[str, Any]:
    return {key: value for key, value in settings["task"].items() if key != "seed"}


def new_head(*per_draw: Settings) -> FewShotHead:
    """Build the head of one draw, or one of a stack of draws, which takes the seed of each."""
    node = per_draw[0]["task"]
    seeds = {"seed": [settings["task"]["seed"] for settings in per_draw]} if "seed" in node and per_draw[1:] else {}
    head: FewShotHead = build.build(node, build.METADATA["task"], **seeds)
    return head


def judged(head: FewShotHead, data: Any, settings: Settings) -> dict[str, float]:
    """Return what the run of one draw tells: what the fit chose, and the metrics of validation and test part."""
    metrics = {f"train/{name}": value for name, value in head.facts.items()}
    stages = {"val": data.val_splits, "test": data.test_splits}
    for stage, splits in stages.items():
        for split in splits:
            size = data.eval_batch_size or data.batch_size
            found = recognised(head, data.features(split), data.labels(split), size, settings, data.seen_classes)
            metrics |= {f"{stage}/{name}": float(value) for name, value in found.items()}
    return metrics


def recognised(
    head: FewShotHead, features: Tensor, labels: Tensor, batch_size: int, settings: Settings, seen: Tensor | None
) -> Mapping[str, float]:
    """Return the metrics of a fitted head on labelled features (N, D)."""
    metric = build.build(settings["metric"])
    device = next(iter(head.state.values())).device
    for rows in torch.arange(len(labels)).split(batch_size):
        logits = head.predict(features[rows].float().to(device))
        metric.update(logits.cpu(), labels[rows], rows)
    result = metric.compute()
    extra = {} if seen is None else open_domain_metrics(result.confusion, seen.cpu().numpy())
    return {**result.metrics, **extra}


def describe(record: RunRecord, data: Sequence[Any], backbone: Backbone, per_draw: Sequence[Settings]) -> None:
    """Note what is known before anything is fitted, and say it."""
    first, settings = data[0], per_draw[0]
    seeds = [one["seed"] for one in per_draw]
    own = {key: value for key, value in first.evaluation_protocol.items() if key != "split_seed"}
    protocol = {**own, **protocol_of(new_head(settings)), "draws": len(seeds), "seeds": _range(seeds)}
    total, _ = count_parameters(backbone.parameters())
    device = device_of(settings["trainer"]["accelerator"])
    record.describe(
        parameters={"total": total, "trainable": 0},
        data_sizes=dict(first.sizes),
        num_classes=first.num_classes,
        fingerprint=hashlib.sha256(" ".join(one.fingerprint for one in data).encode()).hexdigest(),
        protocol=protocol,
        hardware=hardware([torch.cuda.get_device_name()] if device == "cuda" else []),
    )
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in protocol.items())
    say(f"{settings['task']['name']} on {settings['data']['name']}, {first.num_classes} classes: {told}; on {device}")


def show(result: Result, draws: Sequence[Draw], run: RunDirectory) -> None:
    """Print mean, 95 % interval, lowest and highest of every test metric, and where everything lies."""
    found = {name: one for name, one in statistics_of(draws).items() if name.startswith("test/")}
    title = f"{result.task} / {result.model} / {result.data}, {len(draws)} draws"
    if is_quiet():
        tell("; ".join(f"{title}: {title_of(name)} {_with_interval(one)}" for name, one in list(found.items())[:1]))
    else:
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
        console().print(table)
        tell(f"every draw: {run.draws}")
    tell(f"report: {run.report}")


def _range(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} ... {seeds[-1]}"


def _with_interval(found: Statistic) -> str:
    return f"{found.mean:.4f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.4f}")
