"""Child processes: started in a group of their own, stopped once and cleanly, told apart by how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.1


class Terminated(BaseException):
    """SIGTERM arrived: not an Exception, so that nothing on the way mistakes it for a failed job."""


@contextmanager
def termination_as_exception() -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 that clusters send ahead of it, and SIGHUP of a closed terminal raise `Terminated`.

    A signal that somebody handles or ignores already (nohup, a cluster's engine) is left alone.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class Child:
    """A process in a session of its own: Ctrl-C at the terminal reaches it through its parent alone, and once.

    Args:
        command: program and arguments.
        environment: all its variables.
        log: file that its output is added to; None shows it where the parent's own output goes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> None:
        self.log = log
        self._kills_before = _out_of_memory_kills()
        if log is None:
            self._process = _start(command, environment, None)
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = _start(command, environment, file.fileno())

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal's number; None while the process runs."""
        code = self._process.poll()
        if code is not None:
            # ranks and loading workers that a killed process left behind hold memory and GPUs
            self._signal_group(signal.SIGKILL)
        return code

    def interrupt(self) -> None:
        """Stop it as Ctrl-C at a terminal would: the process and all that it started."""
        self._signal_group(signal.SIGINT)

    def terminate(self) -> None:
        """Ask the process itself to end; what it started is its own to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started at once; nothing is saved."""
        self._signal_group(signal.SIGKILL)

    def last_words(self) -> str:
        """Return the last line that it wrote into its log; nothing without one."""
        if self.log is None or not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(self.log.stat().st_size - 4096, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def how_it_ended(self) -> str:
        """Say in words how it ended, by exit code or signal, and whether for want of memory."""
        code = self._process.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        if code == -signal.SIGKILL and _out_of_memory_kills() > self._kills_before:
            return f"out of memory: killed by signal {-code} (SIGKILL) by the system"
        return f"killed by signal {-code} ({_name(-code)})"

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def stop_all(children: Sequence[Child], terminate: bool) -> None:
    """Stop children by Ctrl-C, or by SIGTERM, and wait until they have saved; a second Ctrl-C or SIGTERM kills them."""
    try:
        for child in children:
            if terminate:
                child.terminate()
            else:
                child.interrupt()
        while any(child.poll() is None for child in children):
            time.sleep(POLL_SECONDS)
    except (KeyboardInterrupt, Terminated):
        for child in children:
            child.kill()
        while any(child.poll() is None for child in children):
            time.sleep(POLL_SECONDS)


def _start(command: Sequence[str], environment: Mapping[str, str], output: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _out_of_memory_kills() -> int:
    """Count the processes that Linux has killed for want of memory since it started; 0 where that is not told."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return sum(counts)
