"""A task in stages: each stage is a run of its own, in a process and a directory of its own, after the one before.

`task.stages` lists what each stage changes of the configuration, `task.stage=N` runs one of them alone. The run's own
directory holds `stage1`, `stage2`, ... and a record of the whole, so that it resumes stage by stage.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from launch.compose import compose_config
from launch.groups import CONF, group_names
from launch.jobs import RUN
from launch.paths import quote_paths
from launch.processes import POLL_SECONDS, Child, Terminated, stop_all, termination_as_exception
from launch.run_stamp import is_restarted
from records.atomic_file import write_text
from records.console import is_quiet, say, tell
from records.environment import is_first_process
from records.errors import UserError
from records.override_set import override_settings
from records.report import write_report
from records.result import Result, RunRecord, read_result
from records.run_directory import STAGE, RunDirectory

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# What the run in stages says itself to each stage.
OWN_KEYS = ("mode", "run", "task.stage")


@dataclass(frozen=True)
class Asked:
    """What was typed: `all` over every attempt at the run, `now` with this one."""

    all: tuple[str, ...]
    now: tuple[str, ...]


def is_in_stages(config: DictConfig) -> bool:
    """Tell whether a configuration asks for a training in stages, all of them."""
    task = config.task
    return config.mode == "train" and bool(task.get("stages")) and task.get("stage") is None


def run_stages(config: DictConfig, overrides: Sequence[str], is_resumed: bool = False) -> int:
    """Run every stage that is not completed yet, one after another; return the exit code.

    Args:
        config: the composed configuration, or the stored one of the run that is resumed.
        overrides: what was typed.
        is_resumed: whether the run directory is to hold the earlier attempt.

    Raises:
        UserError: another run lies in the directory, or the run to resume is completed.
    """
    run = RunDirectory(Path(config.paths.run_dir))
    earlier = read_result(run.result) if run.result.is_file() else None
    # a cluster starts a job again with its first command, and on every rank at once
    _refuse(run, earlier, is_resumed or is_restarted() or not is_first_process())
    asked = Asked(tuple(overrides) if earlier is None else (*earlier.overrides, *overrides), tuple(overrides))
    record = _start(config, overrides, run)
    current: list[Child] = []
    try:
        with termination_as_exception():
            for number in range(1, len(config.task.stages) + 1):
                failure = _run_stage(number, config, asked, run, current)
                if failure:
                    record.fail(failure)
                    print(f"{failure}\nThis goes on from there:\n{record.result.resume_command}", file=sys.stderr)
                    return EXIT_FAILED
    except (KeyboardInterrupt, Terminated) as stop:
        by_user = isinstance(stop, KeyboardInterrupt)
        stop_all(current, terminate=not by_user)
        record.interrupt("stopped by the user (Ctrl-C)" if by_user else f"terminated ({stop})")
        return EXIT_INTERRUPTED if by_user else EXIT_TERMINATED
    _complete(record, run, len(config.task.stages))
    return 0


def _refuse(run: RunDirectory, earlier: Result | None, is_resumed: bool) -> None:
    if earlier is not None and not is_resumed:
        raise UserError(
            f"hydra.run.dir={run.path}: a run lies there already. Go on with it: mode=train run={run.path}; "
            "or name another directory for a new one."
        )
    if earlier is not None and earlier.status == "completed":
        raise UserError(f"run={run.path}: every stage of this run is completed. To test it again: mode=test.")


def _start(config: DictConfig, overrides: Sequence[str], run: RunDirectory) -> RunRecord:
    record = RunRecord.start(
        run,
        task=config.task.name,
        model=config.model.name,
        data=config.data.name,
        mode=config.mode,
        seed=config.seed,
        overrides=overrides,
        command=shlex.join(["python", "run.py", *overrides]),
        resume_command=shlex.join(["python", "run.py", "mode=train", f"run={run.path}"]),
        monitor=f"val/{config.task.monitor}",
        direction=config.task.direction,
    )
    if is_first_process():
        plain = OmegaConf.to_container(config, resolve=True)
        write_text(run.config, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    return record


def _run_stage(number: int, config: DictConfig, asked: Asked, run: RunDirectory, current: list[Child]) -> str | None:
    """Run one stage unless it is completed; return why it failed, None where it did not."""
    stage = stage_directory(run, number)
    if _status(stage) == "completed":
        ignored = (
            f"; what is typed now is not for it: {' '.join(_typed(asked.now).values())}" if _typed(asked.now) else ""
        )
        say(f"stage {number} was completed before{ignored if asked.now != asked.all else ''}")
        return None
    say(f"stage {number} of {len(config.task.stages)}: {stage.path}")
    command = [*stage_command(number, config, asked, run), *(["quiet=true"] if is_quiet() else [])]
    current[:] = [Child(command, _environment(run, number))]
    while current[0].poll() is None:
        time.sleep(POLL_SECONDS)
    # the record is the first process's; the others may look before it is written
    if current[0].poll() == 0 if not is_first_process() else _status(stage) == "completed":
        return None
    reason = read_result(stage.result).reason if stage.result.is_file() else None
    return f"stage {number}: {reason or current[0].how_it_ended()}"


def stage_directory(run: RunDirectory, number: int) -> RunDirectory:
    """Return the directory of one stage."""
    return RunDirectory(run.path / f"{STAGE}{number}")


def stage_command(number: int, config: DictConfig, asked: Asked, run: RunDirectory) -> list[str]:
    """Return the command of a stage: the one that resumes it where it has been begun, else what was typed for it.

    The stage's own settings stand first, so that what is typed wins over them, and a debug profile too. The second
    stage and those after it start from the one before. A stage that is resumed gets what is typed with the resuming.
    """
    stage = stage_directory(run, number)
    program = [sys.executable, str(RUN)]
    if stage.config.is_file() and stage.result.is_file():
        added = _typed(asked.now) if asked.now != asked.all else {}
        return [*program, *quote_paths(["mode=train", f"run={stage.path}", *added.values()], multirun=False)]
    # a fast_dev_run leaves no checkpoint to start from
    is_first = number == 1 or bool(config.trainer.fast_dev_run)
    before = {} if is_first else {"init_from": f"init_from={stage_directory(run, number - 1).path}"}
    typed = _typed(asked.all)
    settings = {**_own_settings(number, config, typed), **typed, **before, "task.stage": f"task.stage={number}"}
    where = ["hydra.mode=RUN", f"hydra.run.dir={stage.path}"]
    return [*program, *quote_paths([*settings.values(), *where], multirun=False)]


def stage_settings(overrides: Sequence[str]) -> list[str]:
    """Return what a stage that is run alone (`task.stage=N`) sets in front of what was typed, which wins over it."""
    numbers = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("task.stage=")]
    if not numbers or not numbers[-1].isdigit():
        return []
    config = compose_config(overrides)
    if not config.task.get("stages") or not 1 <= int(numbers[-1]) <= len(config.task.stages):
        return []
    typed = _typed(overrides)
    return [text for key, text in _own_settings(int(numbers[-1]), config, typed).items() if key not in typed]


def _own_settings(number: int, config: DictConfig, typed: Mapping[str, str]) -> dict[str, str]:
    """Return key to override of what the task's YAML sets for a stage.

    Without what the debug profile sets, and without single values of the choice that a typed group replaces: one that
    the stage itself makes (`schedule=step`), or one that knew a key which the typed one does not.
    """
    profile = set(_profile_keys(typed.get("debug", "debug=none").partition("=")[2]))
    own = {str(text).partition("=")[0]: str(text) for text in config.task.stages[number - 1]}
    chosen = set(typed) & set(group_names())

    def is_replaced(key: str) -> bool:
        group, _, rest = key.lstrip("+").partition(".")
        return bool(rest) and group in chosen and (group in own or not _has(config, key))

    return {key: text for key, text in own.items() if key not in profile and not is_replaced(key)}


def _has(config: DictConfig, key: str) -> bool:
    """Tell whether a configuration knows a key; one with a sign is new to every choice."""
    missing = object()
    return key.startswith("+") or OmegaConf.select(config, key, default=missing) is not missing


def _profile_keys(name: str) -> Iterator[str]:
    content = yaml.safe_load((CONF / "debug" / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    yield from _leaves({key: value for key, value in content.items() if key != "defaults"}, "")


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _typed(overrides: Sequence[str]) -> dict[str, str]:
    """Return key (with its sign) to override of what was typed, without what belongs to the whole run."""
    kept = override_settings(overrides)
    pairs = {text.partition("=")[0]: text for text in overrides}
    return {key: text for key, text in pairs.items() if key.lstrip("+") in kept and key not in OWN_KEYS}


def _environment(run: RunDirectory, number: int) -> dict[str, str]:
    """Return the child's variables; in Weights & Biases the stages of a run are a group, unless it is in one."""
    name = os.environ.get("WANDB_NAME", run.path.name)
    return {"WANDB_RUN_GROUP": run.path.name, **os.environ, "WANDB_NAME": f"{name} {STAGE}{number}"}


def _status(stage: RunDirectory) -> str | None:
    return read_result(stage.result).status if stage.result.is_file() else None


def _complete(record: RunRecord, run: RunDirectory, stages: int) -> None:
    """End the record of the whole: the metrics are those of the last stage, the warnings those of all."""
    results = [read_result(stage_directory(run, number).result) for number in range(1, stages + 1)]
    for number, result in enumerate(results, start=1):
        for warning in result.warnings:
            record.warn(f"stage {number}: {warning}")
    last = results[-1]
    record.describe(
        checkpoint_used=last.checkpoint_used,
        parameters=last.parameters,
        data_sizes=last.data_sizes,
        num_classes=last.num_classes,
        fingerprint=last.fingerprint,
        hardware=last.hardware,
        protocol=last.protocol,
    )
    value = None if last.monitor is None else last.monitor["value"]
    record.finish(last.metrics, value)
    if is_first_process():
        write_report(run)
    tell(f"all {stages} stages completed: {run.path}")
