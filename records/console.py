"""The screen: what is said by the way, which quiet mode keeps back, bars and lines of progress, and results.

Under quiet mode (`quiet=true`) only warnings, errors and results are printed. Colours follow the terminal and are left
out under NO_COLOR (https://no-color.org).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from records.duration import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from rich.console import Console

LINE_SECONDS = 30.0
"""How often a long piece of work says how far it is, where there is no terminal for a bar."""

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)

Item = TypeVar("Item")

Advance = Callable[[int, int], None]
"""Takes how much of a piece of work is done, and how much there is."""


def be_quiet(on: bool) -> None:
    """Keep back from now on what is said by the way; or say it again."""
    _QUIET.set(on)


def is_quiet() -> bool:
    """Say whether only warnings, errors and results are printed."""
    return _QUIET.get()


def console(stderr: bool = False, **settings: Any) -> Console:
    """Return a console for what is said by the way: it prints nothing in quiet mode.

    Args:
        stderr: print to standard error.
        settings: further arguments of rich's `Console`.
    """
    from rich.console import Console

    return Console(stderr=stderr, quiet=is_quiet(), **settings)


def say(text: str) -> None:
    """Print a line by the way, whole, without markup; nothing in quiet mode."""
    if not is_quiet():
        print(text, flush=True)


def tell(text: str) -> None:
    """Print a result, whole, without markup, in quiet mode too."""
    print(text, flush=True)


@contextmanager
def progress(what: str, is_shown: bool = True) -> Iterator[Advance]:
    """Show on standard error how far something is: a bar on a terminal, now and then a line elsewhere.

    The bar appears with the first call and is gone at the end. Another total, or less done than before, is another
    piece of work: the bar begins anew, with its own clock.

    Args:
        what: is being done.
        is_shown: False for a process that leaves it to another one; quiet mode shows nothing either.

    Yields:
        call it with how much is done, and how much there is.
    """
    if is_quiet() or not is_shown:
        yield _nothing
        return
    if not console(stderr=True).is_interactive:
        yield ProgressLines(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        pieces = Pieces()

        def advance(done: int, total: int) -> None:
            if pieces.begins_with(done, total):
                for task in bar.task_ids:
                    bar.remove_task(task)
                bar.add_task(what, total=total)
            bar.update(bar.task_ids[0], completed=done)

        yield advance


def told(what: str, items: Sequence[Item]) -> Iterator[Item]:
    """Go through items, and where that takes long say now and then how far it is, in lines; nothing in quiet mode.

    Lines, not a bar: they may come while another bar is on the screen.

    Args:
        what: is being done.
        items: a pass of the loop for each.
    """
    advance = _nothing if is_quiet() else ProgressLines(what)
    for done, item in enumerate(items):
        advance(done, len(items))
        yield item


class Pieces:
    """Tells one piece of work from the next by what is told of them."""

    def __init__(self) -> None:
        self._done = 0
        self._total: int | None = None

    def begins_with(self, done: int, total: int) -> bool:
        """Note how much is done of how much, and say whether that is another piece of work than before."""
        is_new = total != self._total or done < self._done
        self._done, self._total = done, total
        return is_new


class ProgressLines:
    """Lines like `looking at files: 1,200 of 5,000, about 40 s left`, one every `seconds` at most.

    Work that is done sooner says nothing. Another total, or less done than before, is another piece of work, with its
    own clock.

    Args:
        what: is being done.
        seconds: between two lines.
        stream: where to print; None is standard error.
    """

    def __init__(self, what: str, seconds: float = LINE_SECONDS, stream: TextIO | None = None) -> None:
        self._what = what
        self._seconds = seconds
        self._stream = stream
        self._begun = self._said = time.monotonic()
        self._found = 0
        self._pieces = Pieces()

    def __call__(self, done: int, total: int) -> None:
        """Print a line where it is time for one."""
        now = time.monotonic()
        if self._pieces.begins_with(done, total):
            # what an earlier attempt has done says nothing about the speed of this one
            self._found, self._begun = done, now
        if now - self._said < self._seconds:
            return
        self._said = now
        left = time_left(done - self._found, total - done, now - self._begun)
        text = f"{self._what}: {done:,} of {total:,}" + (f", about {left} left" if left else "")
        print(text, file=self._stream or sys.stderr, flush=True)


def time_left(done: int, to_do: int, seconds: float) -> str:
    """Return how long the rest will take at the speed so far, in words; "" where nothing tells, or nothing is left."""
    return duration(seconds * to_do / done, roughly=True) if done > 0 and to_do > 0 else ""


def _nothing(done: int, total: int) -> None:
    """Show nothing."""
