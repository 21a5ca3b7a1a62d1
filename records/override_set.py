"""Overrides as a run record keeps them: the settings by which the runs of a sweep are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Which slot a job ran in, whether it was resumed, or how much it said, is no setting of the job.
IGNORED_PREFIXES = ("sweep.", "hydra.", "hydra/", "quiet")

LONGEST_NUMBER = 10


def override_settings(overrides: Iterable[str]) -> dict[str, str]:
    """Return key to value of overrides as they are typed, in their order; the later of two wins.

    Keys are without the sign of an addition, values without the quotes around the whole of them. Settings of the sweep
    itself (`sweep.slots`), of Hydra and of the screen (`quiet`) are left out. A deletion (`~key`) keeps its sign and
    has the value "".
    """
    settings: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+")
        if not key.startswith(IGNORED_PREFIXES):
            settings[key] = _unquoted(value.strip())
    return settings


def retold(overrides: Iterable[str]) -> dict[str, str]:
    """Return key to the override that sets it, as it can be typed again: with its sign and its quotes; the later wins.

    Blanks that a sweep has escaped, and single quotes around a value, become double quotes, which a shell's own leave
    readable.
    """
    told: dict[str, str] = {}
    for override in overrides:
        key, sign, value = override.partition("=")
        told[key.lstrip("+")] = f"{key}{sign}{_double_quoted(value)}"
    return told


def _double_quoted(value: str) -> str:
    plain = _unquoted(value).replace("\\ ", " ")
    changed = plain != value and not any(sign in plain for sign in "\"\\'")
    return f'"{plain}"' if changed else value


def joined(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Return all overrides in their order, without those that say again what their key has by then."""
    found = list(earlier)
    values = dict(_key_and_text(override) for override in earlier)
    for override in later:
        key, text = _key_and_text(override)
        if values.get(key) != text:
            found.append(override)
            values[key] = text
    return found


def _key_and_text(override: str) -> tuple[str, str]:
    return override.partition("=")[0].lstrip("+"), override.lstrip("+")


def varying_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys, in order of appearance, that some of these settings lack or give another value."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def short_name(settings: Mapping[str, str], keys: Iterable[str]) -> str:
    """Return `bits=32 seed=1` for the given keys: the last part of each key, and its value; "" without any.

    Numbers that a search has drawn are shortened to four digits.
    """
    return " ".join(f"{key.rpartition('.')[2]}={_shortened(settings[key])}" for key in keys if key in settings)


def _shortened(value: str) -> str:
    if len(value) <= LONGEST_NUMBER:
        return value
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if is_quoted else value
