"""Processes that take turns: the ranks of a run, or the jobs of a sweep, that need the same file made once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Let one process at a time into the block, on all machines that see the file; the others wait.

    The lock is the system's record lock on the file, which is made, with its folder, and removed at the end. A process
    that dies lets the next one in. On a filesystem without locks nobody waits, so what is done in turn must bear
    company.

    Args:
        path: the file to lock.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        yield
    finally:
        # While it is held: whoever waits for this very file finds that it is gone, and takes a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        if is_file_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def is_file_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open file is still the one at its path, and not one that its last holder has removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
