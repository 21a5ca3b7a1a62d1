"""One process per job: what a job of a sweep is, where it runs, its command, and the record it leaves.

Lightning relaunches the ranks of a job with the parent's command line, which under `-m` starts the whole sweep again
on every rank. A child with `hydra.mode=RUN` and its own directory has a command line of its own, a fresh device
context, and takes nobody with it when it dies.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from launch.paths import quote_paths
from launch.processes import Child
from launch.sweep_plan import SweepPlan
from records.override_set import override_settings, short_name
from records.result import Result, RunRecord, read_result
from records.run_directory import RunDirectory
from records.sweep_summary import AVERAGED_KEYS, SweepJob, read_jobs

RUN = Path(__file__).resolve().parent.parent / "run.py"
OUTPUT_LOG = "output.log"
RESTART_COUNT = "SWEEP_JOB_RESTART_COUNT"
# W&B refuses longer ones.
LONGEST_TAG = 64

# What is said to the sweep's parent alone.
NOT_OF_A_JOB = ("sweep.", "quiet=")

# Settings of Hydra that belong to the sweep, or that the child is given anew.
NOT_FOR_CHILDREN = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.launcher", "hydra/launcher", "hydra/sweeper")


@dataclass(frozen=True)
class Job:
    """One job: its overrides, where Hydra would put it, and what its record says if the child never writes one.

    `identity` has the keys `task`, `model`, `data`, `mode` and `seed`; `environment` what `hydra.job.env_set` adds.
    """

    overrides: tuple[str, ...]
    hydra_overrides: tuple[str, ...]
    directory: Path
    identity: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def settings(self) -> dict[str, str]:
        """What tells this job from the others of its sweep."""
        return override_settings(self.overrides)


@dataclass(frozen=True)
class Place:
    """The directory that a job runs in, and the record of an earlier attempt that lies there."""

    directory: Path
    earlier: Result | None = None

    @property
    def is_done(self) -> bool:
        """Whether the job has been run to its end already."""
        return self.earlier is not None and self.earlier.status == "completed"


def job_of(config: DictConfig, hydra: Any, directory: Path) -> Job:
    """Return the job that a composed configuration and Hydra's own settings describe."""
    return Job(
        overrides=tuple(text for text in hydra.overrides.task if not text.lstrip("+").startswith(NOT_OF_A_JOB)),
        hydra_overrides=tuple(text for text in hydra.overrides.hydra if not text.startswith(NOT_FOR_CHILDREN)),
        directory=directory,
        identity={
            "task": config.task.name,
            "model": config.model.name,
            "data": config.data.name,
            "mode": config.mode,
            "seed": config.seed,
        },
        environment={str(name): str(value) for name, value in hydra.job.env_set.items()},
    )


def place_of(job: Job, plan: SweepPlan) -> Place:
    """Find where a job runs: where the same settings have been run before, else in a directory of its own.

    A job is known by its settings and never by its number, because another sweep in the same directory numbers anew.
    """
    known = read_jobs(plan.directory)
    same = [one for one in known if one.settings == job.settings and not _runs_now(one, job, plan)]
    same.sort(key=lambda one: one.completed)
    if same:
        return Place(plan.directory / same[-1].name, same[-1].result)
    return Place(_free_directory(job.directory))


def _runs_now(known: SweepJob, job: Job, plan: SweepPlan) -> bool:
    """Tell whether a record belongs to a twin that this very sweep runs at the moment."""
    result = known.result
    is_own = plan.directory / known.name == job.directory
    return result is not None and result.status == "running" and result.started >= plan.started and not is_own


def _free_directory(wanted: Path) -> Path:
    directory, number = wanted, 0
    while (directory / "result.json").exists():
        number += 1
        directory = wanted.with_name(f"{wanted.name}-{number}")
    return directory


def command_of(job: Job, place: Place, flags: Sequence[str] = ()) -> list[str]:
    """Return the command of the child that runs a job."""
    where = ["hydra.mode=RUN", _directory_override(place)]
    return [sys.executable, str(RUN), *flags, *job.overrides, *job.hydra_overrides, *where]


def _directory_override(place: Place) -> str:
    return quote_paths([f"hydra.run.dir={place.directory}"], multirun=False)[0]


def environment_of(job: Job, place: Place, plan: SweepPlan, slot: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of the child: this process's, its slot's, and its names in Weights & Biases.

    The W&B group is the sweep, the job type the task, the name all that varies, and the tags (`bits=32`) what varies
    beside seed and fold. Names that the user has set stay.
    """
    names = {
        "WANDB_RUN_GROUP": plan.directory.name,
        "WANDB_JOB_TYPE": str(job.identity["task"]),
        "WANDB_NAME": label_of(job, plan) or place.directory.name,
        "WANDB_TAGS": ",".join(_tags_of(job, plan)),
    }
    attempts = 0 if place.earlier is None else len(place.earlier.resumed_from) + 1
    return {**names, **os.environ, **job.environment, **slot, RESTART_COUNT: str(attempts)}


def _tags_of(job: Job, plan: SweepPlan) -> list[str]:
    """Return a tag for each setting that varies beside seed and fold; commas part tags, so that within one they go."""
    varying = [key for key in plan.swept if key not in AVERAGED_KEYS and key in job.settings]
    return [short_name(job.settings, [key]).replace(",", " ")[:LONGEST_TAG] for key in varying]


def label_of(job: Job, plan: SweepPlan) -> str:
    """Return what tells the job from the others, in short: `bits=32 seed=1`."""
    return short_name(job.settings, plan.swept)


def close_record(job: Job, place: Place, child: Child, stopped: bool = False) -> Result:
    """Return the record of a job that has ended; write it where the child could not.

    A record left `running`, or none at all, becomes `failed` with what is known of the end, or `interrupted` where the
    sweep itself stopped the child. What the child recorded of its own end stays.
    """
    run = RunDirectory(place.directory)
    is_written = run.result.is_file() and (place.earlier is None or read_result(run.result) != place.earlier)
    record = RunRecord.reopen(run) if is_written else _record_of(job, run)
    if record.result.status != "running":
        if record.result.status == "completed" and child.poll() != 0:
            record.warn(f"the process {child.how_it_ended()} after the run had completed")
        return record.result
    if stopped:
        record.interrupt("stopped with the sweep")
    elif child.poll() == 0 and not is_written:
        record.finish(_metrics_elsewhere(job, place))
    else:
        said = child.last_words()
        record.fail(child.how_it_ended() + (f"; its last line: {said}" if said and not is_written else ""))
    return record.result


def _metrics_elsewhere(job: Job, place: Place) -> dict[str, float]:
    """Return the metrics that an action on a run (`mode=test run=DIR`) has left below that run's directory."""
    run = Path(job.settings.get("run", ""))
    wanted = _directory_override(place)
    records = [read_result(file) for file in sorted(run.glob("evaluations/*/result.json"))] if run.name else []
    return next((dict(record.metrics) for record in records if wanted in record.overrides), {})


def _record_of(job: Job, run: RunDirectory) -> RunRecord:
    command = shlex.join(["python", "run.py", *job.overrides])
    resume = shlex.join(["python", "run.py", "mode=train", f"run={run.path}"])
    return RunRecord.start(run, **job.identity, overrides=job.overrides, command=command, resume_command=resume)


def objective(result: Result | None) -> float | None:
    """Return the monitored value of a completed job, for a sweeper that searches; None where the job has none."""
    if result is None or result.status != "completed" or result.monitor is None:
        return None
    value = result.monitor["value"]
    return None if value is None else float(value)
