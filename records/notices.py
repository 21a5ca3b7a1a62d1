"""Warnings that a run must repeat in its record and in its report."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RunWarning(UserWarning):
    """Something the run goes on with, and that its record and its report must repeat."""


@contextmanager
def collect_run_warnings(on_warning: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Collect the text of every `RunWarning` that is warned inside the block.

    Each distinct text is kept once, in order of appearance, and shown once on standard error in a yellow
    panel. Warnings of every other category go where they went before.

    Args:
        on_warning: called with each new text at the moment it appears, so that a record written to disk holds
            it even when the run is killed later.

    Yields:
        The growing list of texts.
    """
    texts: list[str] = []
    with warnings.catch_warnings():
        pass_on = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, RunWarning):
                pass_on(message, category, filename, lineno, file, line)
                return
            text = str(message)
            if text in texts:
                return
            texts.append(text)
            _show_panel(text)
            if on_warning is not None:
                on_warning(text)

        # "always": the default filter would drop a second, different text from one line of code.
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield texts


def _show_panel(text: str) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    # The console is made at the moment of printing: a live progress display swaps sys.stderr for its own.
    panel = Panel(Text(text), title="Warning", title_align="left", border_style="bold yellow")
    Console(stderr=True).print(panel)
