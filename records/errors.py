"""The one exception whose text is meant for the user."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend; its text names key, value, choices and mend. Printed without traceback."""
