"""What the checker finds: one problem each, with the key, the value, the choices and the mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    `key` is the full key path (`task.bits`), `message` says what is wrong with it, `choices` what would be right,
    `mend` what to type instead.
    """

    key: str
    message: str
    choices: tuple[str, ...] = ()
    mend: str = ""

    def __str__(self) -> str:
        lines = [f"{self.key}: {self.message}" if self.key else self.message]
        if self.choices:
            lines.append(f"    choices: {', '.join(self.choices)}")
        if self.mend:
            lines.append(f"    {self.mend}")
        return "\n".join(lines)


def nearest(word: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of `choices` that `word` may be a slip of, the likeliest first."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    return [by_lower_case[match] for match in get_close_matches(word.lower(), by_lower_case, n=count, cutoff=0.6)]


def did_you_mean(candidates: Sequence[str]) -> str:
    """Return "did you mean a, b?" or nothing where there is no candidate."""
    return f"did you mean {', '.join(candidates)}?" if candidates else ""


def as_text(problems: Sequence[Problem]) -> str:
    """Return all problems as one text, headed by their number."""
    head = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join(
        [
            f"This configuration has {head}; nothing was started.",
            *(f"  {p}".replace("\n", "\n  ") for p in problems),
        ]
    )
