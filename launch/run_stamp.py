"""The name of a run's directory: the clock for one process, the job's identity where several processes start it.

Ranks that torchrun or srun start each read a clock of their own, and a requeued job must find the directory it left. So
under these the name is made of the job's id and of what was typed: the same on every rank and after every requeue, and
another one for another command of the same job.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime

from records.errors import UserError

# A sweep that is resumed counts the restarts of each job (`launch.jobs`).
RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT", "SWEEP_JOB_RESTART_COUNT")


def run_stamp(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Return `slurm-ID-HASH`, `torchrun-ID-HASH`, or date and time to the microsecond.

    Raises:
        UserError: torchrun started this without an id of its own, so that ranks cannot agree on a name.
    """
    command = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:8]
    if "TORCHELASTIC_RUN_ID" in environment:
        identity = environment["TORCHELASTIC_RUN_ID"]
        if identity in ("", "none"):
            raise UserError(
                "torchrun gave this job no id, so its ranks cannot agree on a run directory; "
                "start it with torchrun --rdzv-id=ID (or --standalone), or name the directory: hydra.run.dir=DIR"
            )
        return f"torchrun-{identity}-{command}"
    if "SLURM_JOB_ID" in environment:
        return f"slurm-{environment['SLURM_JOB_ID']}-{command}"
    return datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")


def is_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the cluster has started this very job before, so that its directory is there to go on with."""
    return any(int(environment.get(name, "0") or 0) > 0 for name in RESTART_COUNTS)
