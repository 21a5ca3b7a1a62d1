"""How far a sweep is: counted from its directory, so that jobs on other machines count as well."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from launch.sweep_plan import SweepPlan
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
        left = "" if self.seconds_left is None else f", about {_duration(self.seconds_left)} left"
        return f"{self.completed}{of} jobs done, {self.running} running, {self.failed} failed{left}"


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


def say(plan: SweepPlan, text: str, running: int) -> None:
    """Print a line about one job, followed by how far the sweep is; `running` children have no record yet, maybe."""
    progress = replace(progress_of(plan, read_jobs(plan.directory)), running=running)
    line = f"sweep: {text} | {progress}"
    if plan.shares_screen and sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        Console().rule(Text(line), style="cyan")
        return
    print(line, flush=True)


@contextmanager
def live_line(plan: SweepPlan) -> Iterator[None]:
    """Keep one line at the foot of the terminal up to date, unless the jobs themselves print there."""
    if plan.shares_screen or not sys.stdout.isatty():
        yield
        return
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def line() -> Table:
        progress = progress_of(plan, read_jobs(plan.directory))
        grid = Table.grid(padding=(0, 2))
        grid.add_row(ProgressBar(total=progress.expected, completed=progress.completed, width=30), str(progress))
        return grid

    with Live(get_renderable=line, refresh_per_second=1, transient=True):
        yield


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"
