"""The checker: every problem of a command line at once, before anything is imported or built.

Hydra stops at its first bad override. Here the choices of groups are checked against the YAML tree, the configuration
is composed with the good ones, and each value override is held against it: does the key exist, does the type fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.command_line import parse_overrides
from launch.compose import compose_choice, compose_config
from launch.groups import HYDRA_GROUP_PREFIX, choice_names, group_names
from launch.paths import is_path_key
from launch.plugins import check_plugin
from launch.problems import Problem, did_you_mean, nearest
from launch.ranges import check_ranges
from launch.targets import check_target_names

SEVERAL_CHOICES = ("callbacks", "logger")
GROUPS_WITHOUT_CHOICE = ("experiment",)
# These need a run's own data for its own samples alone.
USES_OF_A_RUN = ("predict", "encode", "search")
# Lightning's own arguments take several types each, which its annotations know; these two are ours
OWN_TRAINER_KEYS = ("trainer.compile", "trainer.on_nonfinite")


def check_overrides(overrides: Sequence[str]) -> list[Problem]:
    """Return every problem of these overrides, sweeps included (each value of a sweep is checked by itself).

    Composes twice at most; imports neither torch nor any class that the configuration names.
    """
    parsed, problems = parse_overrides(tuple(overrides))
    good_groups = []
    for override in (one for one in parsed if _is_group(one)):
        found = list(_check_group(override))
        problems += found
        if not found:
            good_groups.append(override)
    base, failure = _try_compose([one_value(override) for override in good_groups])
    if base is None:
        return [*problems, failure]
    for override in (one for one in parsed if not _is_group(one)):
        problems += check_value(override, base)
    if problems:
        return problems
    return _check_composed([one_value(override) for override in parsed])


def check_config(config: DictConfig) -> list[Problem]:
    """Return every problem of a composed configuration that can be seen without torch.

    Names of targets, a task with data of the wrong kind, paths that do not exist, interpolations that lead nowhere,
    numbers out of their range.
    """
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        # what a task takes from its data leads nowhere in data of another kind, and the kind is the mistake
        unresolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
        lost = Problem(str(error.full_key or ""), str(error).splitlines()[0])
        return list(_check_kind_of_data(unresolved)) or [lost]
    return [
        *check_target_names(plain),
        *_check_kind_of_data(plain),
        *_check_rule(plain),
        *_check_paths(plain),
        *_check_mode(plain),
        *check_ranges(plain),
    ]


def _check_composed(overrides: Sequence[str]) -> list[Problem]:
    config, failure = _try_compose(overrides)
    return [failure] if config is None else check_config(config)


def _try_compose(overrides: Sequence[str]) -> tuple[DictConfig | None, Problem]:
    try:
        return compose_config(overrides), Problem("", "")
    except (HydraException, OmegaConfBaseException) as error:
        return None, Problem("", str(error).strip().splitlines()[0])


def _is_group(override: Override) -> bool:
    key = override.key_or_group
    return key in group_names() or key.startswith(f"{HYDRA_GROUP_PREFIX}/")


def _values(override: Override) -> list[Any]:
    """Return the single values that an override stands for: one, or the values of a sweep that lists them."""
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(choice_names(override.key_or_group)))
    if isinstance(value, Sweep):
        return list(override.sweep_iterator()) if override.is_discrete_sweep() else []
    return [value]


def one_value(override: Override) -> str:
    """Return the override as text with one value, the first one of a sweep."""
    if isinstance(override.value(), Glob):
        return f"{override.get_key_element()}={_values(override)[0]}"
    if not override.is_sweep_override():
        return override.input_line or ""
    if not override.is_discrete_sweep():
        lowest = cast(IntervalSweep, override.value()).start
        return f"{override.get_key_element()}={lowest}"
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _check_group(override: Override) -> Iterator[Problem]:
    group = override.key_or_group
    if override.type == OverrideType.DEL:
        yield from check_choice(group, None)
        return
    for value in _values(override):
        if group.startswith(f"{HYDRA_GROUP_PREFIX}/"):
            yield from check_plugin(group, value)
            continue
        names = value if isinstance(value, list) else [value]
        if isinstance(value, list) and group not in SEVERAL_CHOICES:
            yield Problem(group, f"takes one choice, not a list: {value}", tuple(choice_names(group)))
            continue
        for name in names:
            yield from check_choice(group, name)


def check_choice(group: str, name: Any) -> Iterator[Problem]:
    """Yield a problem where the YAML tree has no choice `name` in `group`, or `group` must not be left out."""
    if name is None:
        if group not in GROUPS_WITHOUT_CHOICE and not group.startswith(f"{HYDRA_GROUP_PREFIX}/"):
            mend = f"{group}.NAME=null leaves one of them out" if group in SEVERAL_CHOICES else ""
            yield Problem(group, "cannot be left out", tuple(choice_names(group)), mend)
        return
    known = choice_names(group)
    if str(name) not in known:
        mend = did_you_mean(nearest(str(name), known))
        yield Problem(group, f"there is no {group} {str(name)!r}", tuple(known), mend)
    yield from check_plugin(group, name)


def check_value(override: Override, base: DictConfig) -> Iterator[Problem]:
    """Yield a problem where a value override names no key of `base`, or does not fit the type of its default."""
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or key.split(".")[0] == HYDRA_GROUP_PREFIX:
        return  # additions and deletions are the user's explicit will; Hydra checks its own keys
    missing = _missing_part(key, base)
    if missing is not None:
        yield missing
        return
    for value in _values(override):
        expected = _expected_type(base, key, value)
        if expected:
            yield Problem(key, f"{_shown(value)} is not {expected}", mend=f"its default is {_shown(_plain(base, key))}")


def _missing_part(key: str, base: DictConfig) -> Problem | None:
    """Return a problem where `key` leads to nothing in `base`: the first missing part, with what stands there."""
    node: Any = base
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if isinstance(node, DictConfig) and part in node.keys():  # noqa: SIM118 a mandatory value is not `in` the node
            node = _dereferenced(node._get_node(part))
            continue
        where = ".".join(parts[:depth]) or "the configuration"
        return Problem(
            key,
            f"there is no {part!r} in {where}",
            _keys(node),
            _advice(key, parts[:depth], part, node, base),
        )
    return None


def _dereferenced(node: Any) -> Any:
    return node if isinstance(node, (DictConfig, ListConfig)) else None


def _keys(node: Any) -> tuple[str, ...]:
    return tuple(str(key) for key in node if not str(key).startswith("_")) if isinstance(node, DictConfig) else ()


def _advice(key: str, above: list[str], part: str, node: Any, base: DictConfig) -> str:
    here = [".".join([*above, match]) for match in nearest(part, _keys(node))]
    everywhere = [path for path in _all_keys(base) if path.split(".")[-1] == key.split(".")[-1]]
    close = nearest(key, _all_keys(base))
    candidates = list(dict.fromkeys([*everywhere, *here, *close]))
    addition = f"+{key}=VALUE adds a key that no YAML declares"
    return "; ".join(filter(None, [did_you_mean(candidates[:3]), addition]))


def _all_keys(config: DictConfig, prefix: str = "") -> list[str]:
    paths = []
    for key in config:
        path = f"{prefix}{key!s}"
        paths.append(path)
        child = config._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            paths += _all_keys(child, f"{path}.")
    return paths


def _plain(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _expected_type(base: DictConfig, key: str, value: Any) -> str:
    """Return what `value` should have been to take the place of the default at `key`, or nothing where it fits.

    A default of null takes anything; words that stand for a number elsewhere (`auto`) are left to the class's own
    annotations, which are checked before it is built.
    """
    if key.startswith("trainer.") and key not in OWN_TRAINER_KEYS:
        return ""
    default = _plain(base, key)
    value = value.text if isinstance(value, QuotedString) else value
    if default is None or value is None or is_path_key(key) or (isinstance(value, str) and "${" in value):
        return ""
    rules: tuple[tuple[type, Callable[[Any], bool], str], ...] = (
        (bool, lambda v: isinstance(v, bool) or v == "auto", "true or false"),
        (int, lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a number"),
        (float, lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a number"),
        (list, lambda v: isinstance(v, list), "a list"),
        (dict, lambda v: isinstance(v, dict), "a mapping"),
        (str, lambda v: not isinstance(v, (list, dict)), "a single value"),
    )
    for kind, fits, name in rules:
        if isinstance(default, kind):
            return "" if fits(value) else name
    return ""


def _shown(value: Any) -> str:
    return repr(value.text) if isinstance(value, QuotedString) else repr(value)


def _check_kind_of_data(config: dict[str, Any]) -> Iterator[Problem]:
    task, data = config["task"], config["data"]
    provides = data.get("provides") or []
    missing = [kind for kind in task.get("needs") or [] if kind not in provides]
    if missing:
        provided = ", ".join(provides) or "nothing"
        message = f"task {task['name']} needs {', '.join(missing)} data, and {data['name']} provides {provided}"
        fitting = _fitting_data(task["needs"])
        yield Problem("data", message, fitting, "choose another data= or another task=")


def _check_rule(config: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each part of the training rule that the data or the task would leave unused."""
    rule, task, data = config.get("rule") or {}, config["task"], config["data"]
    parts = (
        ("sampler", "draws images by class", "sampler", f"data {data['name']}", data),
        ("weights", "weighs the classes", "class_weights", f"task {task['name']}", task),
    )
    for part, what, key, name, taker in parts:
        if rule.get(part, {}).get("kind", "none") != "none" and key not in taker:
            yield Problem("rule", f"rule {rule['name']} {what}, and {name} takes no {key}", mend="rule=none")


def _fitting_data(needs: list[str]) -> tuple[str, ...]:
    """Return the data that provide all of `needs`."""
    return tuple(name for name in choice_names("data") if {*needs} <= {*compose_choice("data", name).provides})


def _check_mode(config: dict[str, Any]) -> Iterator[Problem]:
    mode = config["mode"]
    yield from check_choice("mode", mode)
    if mode != "train" and "run" in config and config["run"] is None:
        yield Problem("run", f"mode={mode} needs the directory of a run", mend=f"python run.py mode={mode} run=DIR")


def _check_paths(config: dict[str, Any]) -> Iterator[Problem]:
    data = config["data"]
    root = None if config["mode"] in USES_OF_A_RUN else data.get("root")
    if root is not None and not data.get("download", False) and not Path(root).is_dir():
        mend = "set data.root=FOLDER, or the folder above it by paths.data_dir=FOLDER or the variable DATA_DIR"
        if "download" in data:
            mend += "; data.download=true fetches what is missing"
        yield Problem("data.root", f"there is no folder {root}", mend=mend)
    files = {
        "data.split_file": data.get("split_file"),
        "model.weights_file": config["model"].get("weights_file"),
    }
    for key, file in files.items():
        if file is not None and not Path(file).is_file():
            yield Problem(key, f"there is no file {file}")
    for key in ("run", "init_from"):
        path = config.get(key)
        # a run that exists has its weights: where they came from may be gone
        is_needed = key == "run" or config.get("run") is None
        if path is not None and is_needed and not Path(path).exists():
            yield Problem(key, f"there is no {path}", mend="a run directory holds config.yaml and checkpoints/")
