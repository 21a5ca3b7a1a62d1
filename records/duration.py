"""A time in words."""

from __future__ import annotations


def duration(seconds: float, roughly: bool = False) -> str:
    """Return a time in words, `41.3 s`, `12 min 5 s`, `3 h 5 min`; roughly, as for an estimate: `41 s`, `12 min`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if roughly else f"{seconds:.1f} s"
    minutes, rest = (round(seconds / 60), 0) if roughly else divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min" if roughly else f"{minutes} min {rest} s"
