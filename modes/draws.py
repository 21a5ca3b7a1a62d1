"""mode=draws: a few-shot head on many draws of its support set, in one process, the draws solved as one stack."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.logged_draws import DrawsLog
from datamodules.encoded.few_shot import FewShotDataModule
from launch.run_stamp import is_restarted
from lit_modules.backbones.backbone import Backbone
from lit_modules.fewshot.base import recognise
from lit_modules.fewshot.head import FewShotHead
from lit_modules.fewshot.problem import plan_stacks, problem_of, protocol_of, seen_by_fit, solutions
from lit_modules.metrics.per_class import PooledRecognition, RecognitionResult, pooled
from lit_modules.optimization import count_parameters
from lit_modules.precision import full_precision
from modes import build, screen
from modes.draw_checks import check_draws_differ, refuse_callbacks, refuse_other_tasks
from modes.encoding import device_of, makes_features, read_data
from modes.life import Settings, live
from modes.train import describe_data, keep_labels, quieten_lightning, refuse_if_occupied
from records.console import progress
from records.draws import Draw, metrics_over, write_draws
from records.environment import is_first_process
from records.errors import UserError
from records.notices import RunWarning
from records.report import write_report
from records.result import RunRecord
from records.run_directory import RunDirectory

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
    refuse_callbacks(settings, overrides, len(per_draw))
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
        UserError: the task is no few-shot head, or all draws are one.
    """
    build.check(settings)
    refuse_other_tasks(settings, len(per_draw))
    quieten_lightning()
    torch.manual_seed(settings["seed"])
    backbone = build.build_backbone(settings)
    data = draws_of_data(per_draw, backbone)
    fingerprints = [one.fingerprint for one in data]
    check_draws_differ(per_draw, fingerprints)
    run = RunDirectory(settings["paths"]["run_dir"])
    describe(record, data[0], backbone, per_draw, fingerprints)
    keep_labels(run, build.label_space(data[0]))
    log = draws_log(settings, run)
    with log.opened():
        draws, whole = judged_draws(per_draw, data, fingerprints, record, log)
        metrics = metrics_over(draws)
        if is_first_process():
            write_draws(run.draws, draws)
            log.log_whole(metrics, whole, data[0].class_names, len(draws))
    record.finish(metrics, metrics.get(f"val/{settings['task']['monitor']}"))
    if is_first_process():
        write_report(run)
        screen.show_draws(record.result, draws, run)


def draws_log(settings: Settings, run: RunDirectory) -> DrawsLog:
    """Return where the run is told, by its loggers and the callbacks whose part it does itself."""
    wanted = {name for name, node in settings["callbacks"].items() if node is not None}
    return DrawsLog(
        run,
        build.build_loggers(settings) if is_first_process() else (),
        recognition_pictures="recognition_pictures" in wanted,
        few_shot_pictures="few_shot_pictures" in wanted,
        wandb_tables="wandb_tables" in wanted,
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


def judged_draws(
    per_draw: Sequence[Settings], data: Sequence[Any], fingerprints: Sequence[str], record: RunRecord, log: DrawsLog
) -> tuple[list[Draw], PooledRecognition]:
    """Fit and judge every draw; return them in the order of their seeds, and all their test parts as one."""
    draws: dict[int, Draw] = {}
    whole: PooledRecognition | None = None
    with progress("draws", is_first_process() and per_draw[0]["callbacks"].get("progress") is not None) as advance:
        for place, head in fitted(per_draw, data, record):
            with record.measure("testing"):
                found = recognised(head, data[place], per_draw[place])
            draws[place] = Draw(per_draw[place]["seed"], fingerprints[place], metrics_of(head, found))
            whole = pooled([found["test"]] if whole is None else [whole, found["test"]])
            log.log_draw(draws[place], place)
            advance(len(draws), len(per_draw))
    assert whole is not None
    return [draws[place] for place in range(len(per_draw))], whole


def fitted(per_draw: Sequence[Settings], data: Sequence[Any], record: RunRecord) -> Iterator[tuple[int, FewShotHead]]:
    """Yield the number of each draw and the head fitted to it; draws of one shape are solved together.

    What is the same for several draws, to a head that has no use for the support set, is solved once.
    """
    heads = [new_head(settings) for settings in per_draw]
    problems = [problem_of(one, head, one.num_classes) for one, head in zip(data, heads, strict=True)]
    device = device_of(per_draw[0]["trainer"]["accelerator"])
    limit = stack_bytes(per_draw[0]["stack_gib"], device) if can_be_stacked(per_draw) else 0.0
    for stack in plan_stacks(problems, [repr(settings["task"]) for settings in per_draw], limit):
        with record.measure("training"), full_precision(torch.zeros((), device=device)):
            head = new_head(*(per_draw[place] for place in stack))
            states = solutions(head, [problems[place] for place in stack], device)
        for state, places in zip(states, stack.values(), strict=True):
            for place in places:
                heads[place].state = state
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


def recognised(head: FewShotHead, data: Any, settings: Settings) -> dict[str, RecognitionResult]:
    """Judge a fitted head on the validation part, where there is one, and the test part, as `val` and `test`."""
    size = data.eval_batch_size or data.batch_size
    return {
        split: recognise(
            head, data.features(split), data.labels(split), build.build(settings["metric"]), size, data.seen_classes
        )
        for split in (*data.val_splits, *data.test_splits)
    }


def metrics_of(head: FewShotHead, found: dict[str, RecognitionResult]) -> dict[str, float]:
    """Return what the run of one draw tells: what the fit chose, and the metrics of validation and test part."""
    chosen = {f"train/{name}": value for name, value in head.facts.items()}
    judged = {f"{stage}/{name}": float(value) for stage, one in found.items() for name, value in one.metrics.items()}
    return {**chosen, **judged}


def describe(
    record: RunRecord, data: Any, backbone: Backbone, per_draw: Sequence[Settings], fingerprints: Sequence[str]
) -> None:
    """Note what is known before anything is fitted, and say it; `data` are those of the first draw."""
    settings = per_draw[0]
    own = {key: value for key, value in data.evaluation_protocol.items() if key != "split_seed"}
    head = new_head(settings)
    told = {**protocol_of(head), **seen_by_fit(head.transductive, data)}
    protocol = {**own, **told, "draws": len(per_draw), "seeds": _seeds(per_draw)}
    total, _ = count_parameters(backbone.parameters())
    device = device_of(settings["trainer"]["accelerator"])
    gpus = [torch.cuda.get_device_name()] if device == "cuda" else []
    describe_data(record, data, protocol, hashlib.sha256(" ".join(fingerprints).encode()).hexdigest(), gpus)
    record.describe(parameters={"total": total, "trainable": 0})
    screen.show_draws_start(settings, data.num_classes, protocol, device)


def _seeds(per_draw: Sequence[Settings]) -> str:
    first, last = per_draw[0]["seed"], per_draw[-1]["seed"]
    return str(first) if first == last else f"{first} ... {last}"
