"""One process at a time in a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from records.environment import is_first_process
from records.errors import UserError
from records.file_lock import is_file_at
from records.run_directory import RunDirectory

TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def sole_process(run: RunDirectory) -> Iterator[str | None]:
    """Hold a run directory against other processes until the block ends, or the process does, however it dies.

    The first process of a distributed run holds it for all its ranks. The lock is the system's record lock (POSIX
    `fcntl`) on the file `.lock`: processes forked to load data do not inherit it, and one that dies gives it back.

    Yields:
        What stands in the way of locking (a filesystem without locks); None where the directory is held.

    Raises:
        UserError: another process holds the directory; the text names its host and number.
    """
    if not is_first_process():
        yield None
        return
    descriptor = _locked(run)
    if isinstance(descriptor, str):
        yield descriptor
        return
    try:
        yield None
    finally:
        # While it is held: whoever waits for this very file finds that it is gone, and takes a new one.
        run.lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(run: RunDirectory) -> int | str:
    """Return the descriptor of the locked file, or what stands in the way."""
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            obstacle = _take(descriptor, run)
            if obstacle is not None:
                run.lock.unlink(missing_ok=True)
                os.close(descriptor)
                return obstacle
            if is_file_at(run.lock, descriptor):
                break
            os.close(descriptor)
        _sign(descriptor)
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={run.path}: the run directory cannot be written ({error.strerror}). Make it writable, free "
            "some space, or name another one: paths.output_dir=DIR"
        ) from error
    return descriptor


def _take(descriptor: int, run: RunDirectory) -> str | None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in TAKEN:
            return (
                f"{run.lock}: this filesystem has no locks ({error.strerror}); start no second process in this folder"
            )
        holder = _holder(descriptor)
        os.close(descriptor)
        raise UserError(
            f"run={run.path}: {holder} is at work in this directory. Wait until it ends, or stop it; "
            "mode=test reads a directory while it is trained in."
        ) from error
    return None


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{text}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {content['pid']} on {content['host']} (since {content['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
