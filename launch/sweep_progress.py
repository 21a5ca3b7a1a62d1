"""How far a sweep is: counted from its directory, so that jobs on other machines count as well."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from launch.sweep_plan import SweepPlan
from records.console import console, is_quiet
from records.duration import duration
from records.sweep_summary import SweepJob, read_jobs


@dataclass(frozen=True)
class Progress:
    """Jobs of a sweep by how they stand; `expected` and `seconds_left` are None where they cannot be known."""

    completed: int
    failed: int
    running: int
    expected: int | None
    seconds_left: float | None

    def __str__(self) -> str:
        of = "" if self.expected is None else f" of {self.expected}"
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left, roughly=True)} left"
        return f"{self.completed}{of} jobs done, {self.running} running, {self.failed} failed{left}"


_CHILDREN: dict[Path, int] = {}
"""Directory of a sweep to how many of its jobs run as children of this process: they have no record at first."""


def progress_of(plan: SweepPlan, jobs: Sequence[SweepJob]) -> Progress:
    """Count the jobs; what an earlier sweep left unfinished counts only once it has been run again."""
    results = [job.result for job in jobs if job.result is not None]
    recent = [result for result in results if result.started >= plan.started]
    completed = sum(job.completed for job in jobs)
    running = sum(result.status == "running" for result in recent)
    failed = sum(result.status in ("failed", "interrupted") for result in recent)
    # a record that the parent has written, for a child that wrote none, holds no time
    seconds = [result.seconds["whole"] for result in recent if result.status == "completed"]
    seconds = [one for one in seconds if one >= 1]
    to_do = 0 if plan.expected is None else plan.expected - completed - failed
    seconds_left = to_do * statistics.fmean(seconds) / min(plan.slots, to_do) if seconds and to_do > 0 else None
    return Progress(completed, failed, running, plan.expected, seconds_left)


def say_of_job(plan: SweepPlan, text: str, running: int) -> None:
    """Print a line about one job, followed by how far the sweep is; `running` children have no record yet, maybe."""
    _CHILDREN[plan.directory] = running
    if is_quiet():
        return
    progress = _with_children(plan, progress_of(plan, read_jobs(plan.directory)))
    line = f"sweep: {text} | {progress}"
    if plan.shares_screen and sys.stdout.isatty():
        from rich.text import Text

        console().rule(Text(line), style="cyan")
        return
    print(line, flush=True)


def _with_children(plan: SweepPlan, progress: Progress) -> Progress:
    """Count the children of this process among what runs, those too that have no record yet.

    A child that has written its record ends a moment later, and is counted as done already.
    """
    running = max(progress.running, _CHILDREN.get(plan.directory, 0))
    if progress.expected is not None:
        running = min(running, max(0, progress.expected - progress.completed - progress.failed))
    return replace(progress, running=running)


@contextmanager
def live_line(plan: SweepPlan) -> Iterator[None]:
    """Keep one line at the foot of the terminal up to date, unless the jobs themselves print there."""
    if is_quiet() or plan.shares_screen or not sys.stdout.isatty():
        yield
        return
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def line() -> Table:
        progress = _with_children(plan, progress_of(plan, read_jobs(plan.directory)))
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(ProgressBar(total=progress.expected, completed=progress.completed), str(progress))
        return grid

    with Live(get_renderable=line, refresh_per_second=1, transient=True):
        yield
