"""Sharing out one machine among the jobs that run at a time: its GPUs, or the cores of its CPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

# Whoever counts threads in a training process reads one of these: OpenMP and PyTorch, MKL, OpenBLAS, numba.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def share_out(slots: int, gpus: Sequence[str], cores: int, given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment variables of each slot.

    With as many GPUs as slots or more, each slot gets the same number of them for itself; with fewer, slots take turns
    and share. Cores are shared evenly, one at least; a number of threads that the user has `given` stays.
    """
    threads = str(max(cores // slots, 1))
    variables = {name: threads for name in THREAD_VARIABLES if name not in given}
    return [{**variables, **_gpus_of(slot, slots, gpus)} for slot in range(slots)]


def _gpus_of(slot: int, slots: int, gpus: Sequence[str]) -> dict[str, str]:
    if not gpus:
        return {}
    each = max(len(gpus) // slots, 1)
    first = slot * each % len(gpus)
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + each])}


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Name the GPUs that a process started now would see, without importing torch: CUDA_VISIBLE_DEVICES, or all."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
