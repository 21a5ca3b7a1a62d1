"""What a run ran on: hardware, versions, and the state of the project's own checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT_FOLDER = Path(__file__).resolve().parent.parent

PACKAGES = (
    "hash-tail-shot",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "hydra-core",
    "omegaconf",
    "numpy",
    "numba",
    "scikit-learn",
    "faiss-cpu",
    "wandb",
    "matplotlib",
)


# Whoever starts the processes of a distributed run numbers them in one or two of these: torchrun, Slurm, Lightning.
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")


def is_first_process() -> bool:
    """Tell whether this process is alone, or the one of a distributed run that writes files.

    The one definition of the first rank: Lightning's `rank_zero_only` is told by it (`modes.life`).
    """
    return all(os.environ.get(name, "0") in ("", "0") for name in RANK_VARIABLES)


def hardware(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the machine: processor, cores this process may use, memory in GiB, names of the GPUs.

    Args:
        gpus: names of the devices the run uses; asking for them needs torch, which this room does not import.
    """
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _processor(),
        "cores": _usable_cores(),
        "memory_gib": _memory_gib(),
        "gpus": list(gpus),
    }


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each main package; null for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state(folder: Path = PROJECT_FOLDER) -> dict[str, Any] | None:
    """Return the commit of the checkout whose top folder is `folder`, and whether files differ from it.

    Returns:
        `{"commit": 40 hex digits, "dirty": bool}`; None outside a checkout, without git, or when `folder`
        only lies somewhere inside the checkout of another project (a package installed in its environment).
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != folder.resolve():
        return None
    changes = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": changes != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
