"""The one exception whose text is meant for the user."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend; its text names key, value, choices and mend. Printed without traceback."""

    def __init__(self, text: str = "") -> None:
        # torch re-raises what a loader's worker raised with the worker's traceback written before the text
        super().__init__(text.rpartition(f"\n{__name__}.{type(self).__name__}: ")[2].rstrip("\n"))
