"""The life of one run around whatever a mode does: its record, its warnings, interruption, and an honest exit code."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only

from launch.requeue import requeue
from records.atomic_file import write_text
from records.environment import is_first_process
from records.errors import UserError
from records.notices import RunWarning, collect_run_warnings
from records.result import RunRecord
from records.run_directory import RunDirectory
from records.run_lock import sole_process

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

Settings = Mapping[str, Any]


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived: not an Exception, so that nothing on the way mistakes it for a failure."""


def live(
    settings: Settings,
    overrides: Sequence[str],
    action: Callable[[Settings, RunRecord], None],
    again: Sequence[str],
    kept: str | None = None,
) -> int:
    """Run `action` in the run directory `paths.run_dir`; return the exit code.

    The record says `running` until the action ends, then how it ended. Only the first process writes it. `again` are
    the arguments that go on with the action after an interruption, and `kept` says what is not lost by it; None is for
    training, whose checkpoints tell.

    Raises:
        UserError: another process is at work in the directory, or it cannot be written.
    """
    agree_on_first_process()
    run = RunDirectory(settings["paths"]["run_dir"])
    with sole_process(run) as obstacle:
        record = _start(settings, overrides, run, again)
        with collect_run_warnings(record.warn), _termination_as_exception() as ignore_signals:
            if obstacle is not None:
                warnings.warn(obstacle, RunWarning, stacklevel=2)
            try:
                action(settings, record)
            except (KeyboardInterrupt, Terminated) as stop:
                ignore_signals()
                return _interrupted(stop, record, kept)
            except UserError as error:
                ignore_signals()
                return _failed(str(error), record)
            except Exception as error:
                ignore_signals()
                _keep_traceback(run, show=settings["debug"]["traceback"])
                hint = (
                    ""
                    if settings["debug"]["traceback"]
                    else f"\nThe traceback is in {run.path / traceback_name()}; debug.traceback=true shows it."
                )
                return _failed(f"{type(error).__name__}: {error}", record, hint)
    return EXIT_DONE


def agree_on_first_process() -> None:
    """Let Lightning's `rank_zero_only` know the first process that `is_first_process` knows, before there is a trainer.

    By itself it takes the first process of every machine for the first where only the machine is numbered. A trainer
    sets the rank that it finds.
    """
    if not is_first_process():
        setattr(rank_zero_only, "rank", max(_rank(), 1))  # noqa: B010 a function with an attribute


def command_line(arguments: Sequence[str]) -> str:
    """Return a line for the shell that runs `python run.py` with these arguments, by the path it was started with."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "run.py" else "run.py"
    return shlex.join(["python", program, *arguments])


def _start(settings: Settings, overrides: Sequence[str], run: RunDirectory, again: Sequence[str]) -> RunRecord:
    task = settings["task"]
    record = RunRecord.start(
        run,
        task=task["name"],
        model=settings["model"]["name"],
        data=settings["data"]["name"],
        mode=settings["mode"],
        seed=settings["seed"],
        overrides=overrides,
        command=command_line(overrides),
        resume_command=command_line(again),
        monitor=f"val/{task['monitor']}",
        direction=task["direction"],
    )
    if is_first_process():
        write_text(run.config, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
    return record


@contextmanager
def _termination_as_exception() -> Iterator[Callable[[], None]]:
    """Let SIGTERM, and SIGUSR1 that clusters send ahead of it, unwind the run once, as Ctrl-C does.

    A closed terminal (SIGHUP) does too, unless somebody handles or ignores that already (nohup).

    Yields:
        Call it when the run has ended: signals that come later are ignored, for the record is being closed.
    """
    ended: list[bool] = []

    def ignore() -> None:
        ended.append(True)

    def stop(number: int, frame: FrameType | None) -> None:
        # the flag and not SIG_IGN: Lightning puts handlers of its own in place and back again
        if not ended:
            ignore()
            raise Terminated(signal.Signals(number).name)

    numbers = [signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield ignore
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupted(stop: BaseException, record: RunRecord, kept: str | None) -> int:
    by_user = isinstance(stop, KeyboardInterrupt)
    record.interrupt("stopped by the user (Ctrl-C)" if by_user else f"terminated ({stop})")
    what = kept or (
        "The last whole epoch is saved; this goes on from there"
        if _has_checkpoint(record)
        else "Nothing is saved yet; this starts anew"
    )
    _say(f"\nStopped. {what}:\n{record.result.resume_command}")
    said = None if by_user or not is_first_process() else requeue()
    if said:
        _say(said)
    return EXIT_INTERRUPTED if by_user else EXIT_TERMINATED


def _failed(reason: str, record: RunRecord, hint: str = "") -> int:
    record.fail(reason)
    # every rank says it: the one that failed first may not be the first rank, and the others are killed without a word
    speaker = "" if is_first_process() else f"rank {_rank()}: "
    print(f"{speaker}{reason}{hint}", file=sys.stderr, flush=True)
    if _has_checkpoint(record):
        _say(f"The last whole epoch is saved; this goes on from there:\n{record.result.resume_command}")
    return EXIT_FAILED


def _has_checkpoint(record: RunRecord) -> bool:
    run = RunDirectory(record.path.parent)
    return run.last_checkpoint.is_file() or run.best_checkpoint.is_file()


@rank_zero_only
def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def traceback_name() -> str:
    """Return the name of the file that keeps a failure's traceback, one for each rank."""
    return "traceback.txt" if is_first_process() else f"traceback-rank{_rank()}.txt"


def _keep_traceback(run: RunDirectory, show: bool) -> None:
    text = traceback.format_exc()
    try:
        write_text(run.path / traceback_name(), text)
    except OSError:
        show = True
    if show:
        print(text, file=sys.stderr)
