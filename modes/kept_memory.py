"""Keep memory that tensors free for the next step, in place of handing it back to the system: training on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""By these a user has settled it; nothing is changed then."""

# malloc.h of glibc: parameters of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more; activations of small images are smaller


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; return whether it does.

    A training step frees and asks for the same tensors again and again. glibc returns large ones to the system, which
    then hands out empty pages anew, thousands in every step (docs/results.md has what it costs). The process keeps the
    memory of its highest point. Other C libraries, and users' own settings of malloc, are left as they are.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in MALLOC_VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    never_trims = mallopt(_TRIM_THRESHOLD, _NEVER) == 1
    rarely_maps = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) == 1
    return never_trims and rarely_maps
