"""The parent of a sweep: it starts jobs, goes on when one fails, keeps the table, and ends with an honest exit code.

Any launcher and sweeper of Hydra may stand between `run_sweep` and `run_job`: what a job leaves behind lies in its
directory, and everything here is read from there.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.jobs import (
    OUTPUT_LOG,
    RUN,
    Job,
    Place,
    close_record,
    command_of,
    environment_of,
    job_of,
    label_of,
    objective,
    place_of,
)
from launch.processes import POLL_SECONDS, Child, Terminated, stop_all, termination_as_exception
from launch.requeue import requeue
from launch.slots import share_out, usable_cores, visible_gpus
from launch.sweep_plan import OWN_LAUNCHERS, SweepPlan
from launch.sweep_progress import live_line, progress_of, say_of_job
from records.console import be_quiet, say, tell
from records.result import Result
from records.sweep_summary import SUMMARY_PAGE, SweepJob, read_jobs, write_summary

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# The sweep whose parent this process is, for the launcher that Hydra makes and hands only a configuration.
_CURRENT: ContextVar[SweepPlan] = ContextVar("current sweep")


class SweepStopped(BaseException):
    """A job failed under `sweep.fail_fast`: not an Exception, because Hydra goes on after those."""


def run_sweep(plan: SweepPlan, start: Callable[[], None]) -> int:
    """Let Hydra `start` the sweep; return its exit code: 0 only if every job in its directory completed.

    Whatever happens, the summary is written and the command is printed that runs what is missing.
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    plan.stop_file.unlink(missing_ok=True)
    plan.save()
    _let_workers_import_us()
    _CURRENT.set(plan)
    be_quiet(plan.is_quiet)
    say(f"sweep: {plan.expected or 'some'} jobs, launcher {plan.launcher}, in {plan.directory}")
    code = _guarded(plan, start)
    if plan.launcher not in OWN_LAUNCHERS or not (plan.directory / SUMMARY_PAGE).exists() or code:
        _write_summary(plan)
    jobs = read_jobs(plan.directory)
    is_whole = bool(jobs) and all(job.completed for job in jobs)
    if plan.is_quiet:
        _repeat_warnings(jobs)
    tell(f"sweep: {progress_of(plan, jobs)}; table: {plan.directory / SUMMARY_PAGE}")
    if code or not is_whole:
        print(f"This runs what is missing or failed:\n{plan.resume_command}", file=sys.stderr, flush=True)
    return code or (0 if is_whole else EXIT_FAILED)


def _repeat_warnings(jobs: Sequence[SweepJob]) -> None:
    """Print every warning once, and how many jobs gave it: what jobs say themselves goes to their logs."""
    warnings = Counter(text for job in jobs if job.result is not None for text in job.result.warnings)
    for text, count in warnings.items():
        print(f"sweep: {count} of {len(jobs)} jobs warned: {text}", file=sys.stderr, flush=True)


def _guarded(plan: SweepPlan, start: Callable[[], None]) -> int:
    try:
        with termination_as_exception(), live_line(plan):
            start()
    except SweepStopped:
        return EXIT_FAILED
    except KeyboardInterrupt:
        plan.stop_file.touch()
        return EXIT_INTERRUPTED
    except Terminated:
        plan.stop_file.touch()
        said = requeue()
        if said:
            print(said, file=sys.stderr, flush=True)
        return EXIT_TERMINATED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    return 0


def run_job(plan: SweepPlan, job: Job) -> float | None:
    """Run one job to its end, wherever a launcher has brought us; return its monitored value."""
    if plan.stop_file.exists():
        return None
    be_quiet(plan.is_quiet)
    with termination_as_exception():
        (result,) = run_jobs(plan, [job], [{}])
    return objective(result)


def run_batch(loader: Any, config: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
    """Run a batch of Hydra's jobs side by side, in the slots of the sweep; return a `JobReturn` for each.

    Args:
        loader: Hydra's configuration loader.
        config: the sweep's own configuration.
        job_overrides: the overrides of each job.
        first: number of the first job.
    """
    plan = _CURRENT.get()
    configs = [_job_config(loader, config, list(one), first + number) for number, one in enumerate(job_overrides)]
    jobs = [job_of(one, one.hydra, _hydra_directory(one)) for one in configs]
    slots = share_out(plan.slots, visible_gpus(), usable_cores(), os.environ)
    results = run_jobs(plan, jobs, slots)
    return [_job_return(one, result) for one, result in zip(configs, results, strict=True)]


def _job_config(loader: Any, config: Any, overrides: list[str], number: int) -> Any:
    from omegaconf import open_dict

    composed = loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    return composed


def _hydra_directory(config: Any) -> Path:
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    return Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)


def _job_return(config: Any, result: Result | None) -> Any:
    from hydra.core.utils import JobReturn, JobStatus

    done = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config)
    done.status = JobStatus.COMPLETED
    done.return_value = objective(result)
    return done


@dataclass
class _Batch:
    """The jobs of one batch: waiting, running in a slot, and their results by position."""

    waiting: deque[tuple[int, Job]]
    free_slots: list[Mapping[str, str]]
    running: dict[int, tuple[Job, Place, Child, Mapping[str, str]]] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)


def run_jobs(plan: SweepPlan, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> list[Result | None]:
    """Run jobs, as many at a time as there are slots; return their records in order.

    Args:
        plan: the sweep they belong to.
        jobs: what to run; a job that has been completed in this directory is not run again.
        slots: the environment variables of each slot.

    Raises:
        SweepStopped: a job failed under `sweep.fail_fast`; those that ran beside it have saved and ended.
        KeyboardInterrupt, Terminated: passed on once the children have saved and ended.
    """
    batch = _Batch(deque(enumerate(jobs)), list(slots))
    try:
        while batch.waiting or batch.running:
            _fill_slots(plan, batch)
            for number in [one for one, entry in batch.running.items() if entry[2].poll() is not None]:
                _end_job(plan, batch, number)
            if batch.running:
                time.sleep(POLL_SECONDS)
    except (KeyboardInterrupt, Terminated, SweepStopped) as stop:
        _stop_batch(plan, batch, terminate=not isinstance(stop, KeyboardInterrupt))
        raise
    return [batch.results.get(number) for number in range(len(jobs))]


def _fill_slots(plan: SweepPlan, batch: _Batch) -> None:
    while batch.waiting and batch.free_slots:
        number, job = batch.waiting.popleft()
        place = place_of(job, plan)
        if place.is_done and place.earlier is not None:
            batch.results[number] = place.earlier
            say_of_job(plan, f"{_title(job, place, plan)} was completed before", len(batch.running))
            continue
        slot = batch.free_slots.pop(0)
        log = None if len(batch.running) == 0 and not _writes_logs(plan) else place.directory / OUTPUT_LOG
        child = Child(command_of(job, place, plan.flags), environment_of(job, place, plan, slot), log)
        batch.running[number] = (job, place, child, slot)
        say_of_job(plan, f"{_title(job, place, plan)} {'goes on' if place.earlier else 'starts'}", len(batch.running))


def _writes_logs(plan: SweepPlan) -> bool:
    """Tell whether each job's output goes into its directory: jobs side by side would garble one screen."""
    return plan.launcher == "slots" or plan.is_quiet


def _end_job(plan: SweepPlan, batch: _Batch, number: int) -> None:
    job, place, child, slot = batch.running[number]
    result = close_record(job, place, child)
    del batch.running[number]
    batch.free_slots.append(slot)
    batch.results[number] = result
    _write_summary(plan)
    if result.reason:
        print(f"sweep: {_title(job, place, plan)}: {result.reason}", flush=True)
    say_of_job(plan, f"{_title(job, place, plan)} {result.status}", len(batch.running))
    if result.status != "completed" and plan.fail_fast:
        plan.stop_file.touch()
        if plan.is_here:
            raise SweepStopped


def _stop_batch(plan: SweepPlan, batch: _Batch, terminate: bool) -> None:
    stop_all([child for _, _, child, _ in batch.running.values()], terminate)
    for job, place, child, _ in batch.running.values():
        close_record(job, place, child, stopped=True)
    _write_summary(plan)


def _title(job: Job, place: Place, plan: SweepPlan) -> str:
    label = label_of(job, plan)
    return f"job {place.directory.name}" + (f" ({label})" if label else "")


def _write_summary(plan: SweepPlan) -> None:
    """Write table and picture; a full disk is said and does not end the sweep."""
    try:
        write_summary(plan.directory, plan.resume_command, plan.repeat_command)
    except OSError as error:
        print(f"sweep: the summary in {plan.directory} could not be written: {error}", file=sys.stderr, flush=True)


def _let_workers_import_us() -> None:
    """Let workers that a cluster's engine starts, in whatever folder, find this project's packages."""
    folders = [str(RUN.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
