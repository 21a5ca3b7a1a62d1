"""What tells runs apart: their configurations as flat settings, without the seed and without places on a disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from records.draws import MODE_KEYS
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEED = "seed"
SEED_MARK = "${seed}"
NAMES = ("task", "model", "data")
ROW = "row"
"""The key by which a user names the row of a table that a run belongs to."""

_START = re.compile(r"init_from|task\.teacher|task\.encoders\.[^.]+\.run")

WATCHING_CALLBACKS = (
    *("seeding", "table", "throughput", "progress", "finite", "training_images", "pictures", "recognition_pictures"),
    *("few_shot_pictures", "wandb_tables", "last", "batch_size_finder", "submission"),
)
"""Callbacks that change no result, or whose effect another setting holds; every other one is a setting of the run."""

_NO_SETTINGS = ("hydra", "paths", "callbacks", "logger", "sweep", "debug", "run", "quiet", *MODE_KEYS)
RETIRED_KEYS = ("task.transductive",)
"""Keys in the config.yaml of older runs that say nothing any more."""
ADDED_KEYS = {"data.view_augment.crop_padding": "0"}
"""Keys that the config.yaml of older runs lacks, and what such runs did: with that value a key tells nothing apart."""

_NO_MATTER = (*RETIRED_KEYS, "data.fold", "data.num_workers", "trainer.log_every_n_steps", "trainer.profiler")


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml.

    Raises:
        UserError: it is missing or damaged.
    """
    # both make plain values alone; the first is the faster one, where PyYAML was built with it
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        raise UserError(f"{path}: the run has no configuration. Name the folder of a run: run=FOLDER.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error}). Restore the file or run again.") from None
    return config if isinstance(config, dict) else {}


def flat_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return key to value, as text, of whatever may change a result, the seed among them.

    The fold is left out, and places below the run's directory or the data's are told relative to these.
    """
    paths = config.get("paths") or {}
    folders = [str(paths[key]) for key in ("run_dir", "data_dir") if paths.get(key)]
    # without weights to start from, which of them are taken says nothing
    idle = () if config.get("init_from") else ("init_parts",)
    kept = {name: node for name, node in config.items() if name not in (*_NO_SETTINGS, *idle)}
    kept["callbacks"] = _acting(config.get("callbacks") or {})
    told = {
        key: _text(value, folders)
        for key, value in leaves(kept)
        if key not in _NO_MATTER and not key.endswith("_target_")
    }
    return {key: value for key, value in told.items() if ADDED_KEYS.get(key) != value}


def _acting(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callbacks that may change a result; one without arguments is told by its class."""
    acting = {name: node for name, node in callbacks.items() if name not in WATCHING_CALLBACKS}
    alone = {name: node["_target_"] for name, node in acting.items() if isinstance(node, dict) and len(node) == 1}
    return {**acting, **alone}


def without_seeds(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the settings without the seed, with a mark where a value follows it: equal where the seed alone differs.

    A key that ends in `seed` follows (`data.split_seed: ${seed}`) where it has the seed's value and no run of another
    seed, of the same row, task, model and data, has that value too; otherwise it was given (`data.selection_seed: 0`)
    and meets a seed of 0 by chance.
    """
    seeds: dict[tuple[str | None, ...], set[str | None]] = {}
    for one in settings:
        for key, value in one.items():
            if key.endswith(SEED) and key != SEED:
                seeds.setdefault((*_named(one), key, value), set()).add(one.get(SEED))
    return [
        {
            key: SEED_MARK if seeds.get((*_named(one), key, value)) == {one.get(SEED)} == {value} else value
            for key, value in one.items()
            if key != SEED
        }
        for one in settings
    ]


def _named(settings: Mapping[str, str]) -> tuple[str | None, ...]:
    return (settings.get(ROW), *(settings.get(f"{name}.name") for name in NAMES))


def leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield key and value of every leaf of a configuration; lists are leaves."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{place}.{name}" if place else str(name))
    elif node != {}:
        yield place, node


def name_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys that name runs: the row where all were given one, else task, model and data."""
    is_named = all(one.get(ROW, "null") != "null" for one in settings)
    return [ROW] if is_named else [f"{name}.name" for name in NAMES]


def telling_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys that tell these settings apart: names first, then what varies where all names are the same.

    That task, model or data differ says why their own keys differ, so those keys are told only where they vary between
    settings of one task, model and data. Where every run was given the name of its row, that name stands for all three.
    """
    names = name_keys(settings)
    keys = [key for key in names if len({one.get(key) for one in settings}) > 1]
    groups: dict[tuple[str | None, ...], list[Mapping[str, str]]] = {}
    for one in settings:
        groups.setdefault(tuple(one.get(key) for key in names), []).append(one)
    for members in groups.values():
        keys.extend(key for key in _told_among(members) if key not in keys)
    return keys


def names_start(key: str) -> bool:
    """Tell whether a key names a run whose weights are taken; `records.starting_runs` puts its settings below it."""
    return _START.fullmatch(key) is not None


def start_of(key: str) -> str | None:
    """Return the key of the run that is started from, of which `key` is a setting; None for settings of the run itself.

    `init_from.task.name` is one of `init_from`'s.
    """
    match = _START.match(key)
    return match.group() if match is not None and key.startswith(f"{match.group()}.") else None


def _told_among(members: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys that tell settings of one name apart; of a run that is started from, those that tell it."""
    own = [{key: value for key, value in one.items() if start_of(key) is None} for one in members]
    starts = dict.fromkeys(start for one in members for key in one if (start := start_of(key)) is not None)
    return [*_varying_keys(own), *(f"{start}.{key}" for start in starts for key in _told_of_start(members, start))]


def _told_of_start(members: Sequence[Mapping[str, str]], start: str) -> list[str]:
    """Return the keys that tell the runs at `start` apart, or, where some have one and others none, that name it."""
    below = [
        {key.removeprefix(f"{start}."): value for key, value in one.items() if start_of(key) == start}
        for one in members
    ]
    given = [one for one in below if one]
    names = name_keys(given)[:1] if len(given) < len(members) else []
    return telling_keys(given) or names


def _varying_keys(members: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys whose values differ among `members`, without those that repeat another one.

    `data.epochs: ${trainer.max_epochs}` repeats a key of like name wherever both have the same value.
    """
    varying: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for one in members for key in one):
        # what one mode does not know is nothing, as null is
        values = [one.get(key, "null") for one in members]
        repeats = any(values == other and _are_alike(key, told) for told, other in varying.items())
        if len(set(values)) > 1 and not repeats:
            varying[key] = values
    return list(varying)


def _are_alike(key: str, other: str) -> bool:
    """Return whether the last names are the same, or one is the other with words before it."""
    shorter, longer = sorted((f"_{key.rpartition('.')[2]}", f"_{other.rpartition('.')[2]}"), key=len)
    return longer.endswith(shorter)


def setting_name(key: str) -> str:
    """Return a key as it is told to people: `task` for `task.name`, other keys whole."""
    start = start_of(key)
    own = key if start is None else key.removeprefix(f"{start}.")
    return key.removesuffix(".name") if own.partition(".")[0] in NAMES else key


def _text(value: Any, folders: Sequence[str]) -> str:
    if isinstance(value, str):
        for folder in folders:
            if value == folder or value.startswith(f"{folder}/"):
                return value[len(folder) :].lstrip("/") or "."
        return value
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
