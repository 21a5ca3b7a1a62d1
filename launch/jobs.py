"""One process per job: the parent of a sweep starts each job as a child of its own and never trains.

Lightning relaunches the ranks of a job with the parent's command line, which under `-m` starts the whole sweep again
on every rank. A child with `hydra.mode=RUN` and its own directory has a command line of its own, a fresh device
context, and takes nobody with it when it dies.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from records.result import read_result
from records.run_directory import RunDirectory

RUN = Path(__file__).resolve().parent.parent / "run.py"


def run_job(overrides: Sequence[str], directory: Path) -> int:
    """Run one job of a sweep in a child process; return its exit code (0 when it completed)."""
    command = [sys.executable, str(RUN), *overrides, "hydra.mode=RUN", f'hydra.run.dir="{directory}"']
    return subprocess.run(command, check=False).returncode


def objective(directory: Path) -> float | None:
    """Return the monitored value of a finished job, for a sweeper that searches; None where the job has none."""
    result = RunDirectory(directory).result
    if not result.is_file():
        return None
    monitor = read_result(result).monitor
    return None if monitor is None or monitor["value"] is None else float(monitor["value"])
