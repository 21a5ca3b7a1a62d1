"""Putting a preempted cluster job back into the queue: once, by whoever owns the job."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

SECONDS_TO_ANSWER = 30

# Set by those who start this process as one of their jobs, and put the job back themselves.
OTHER_REQUEUERS = ("SUBMITIT_EXECUTOR", "SWEEP_JOB_RESTART_COUNT")


def requeue(environment: Mapping[str, str] = os.environ) -> str | None:
    """Put the SLURM job this process runs in back into the queue; return what to say of it, None where none is."""
    job = environment.get("SLURM_JOB_ID")
    program = shutil.which("scontrol", path=environment.get("PATH"))
    if job is None or program is None or any(name in environment for name in OTHER_REQUEUERS):
        return None
    try:
        done = subprocess.run(
            [program, "requeue", job], check=False, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER
        )
        problem = done.stderr.strip() if done.returncode != 0 else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    return f"Job {job} is back in the queue." if problem is None else f"Job {job} could not be requeued: {problem}"
