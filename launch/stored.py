"""Later actions on a run: its stored config.yaml is the base, the command line changes values on top of it.

A stored configuration is resolved, so its paths no longer follow `paths.run_dir` and `paths.data_dir`: they are moved.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from launch.check import check_choice, check_config, check_value
from launch.command_line import parse_overrides
from launch.compose import compose_config
from launch.groups import CONF, group_names
from launch.paths import relocate
from launch.problems import Problem
from records.errors import UserError
from records.run_directory import RunDirectory
from records.run_settings import RETIRED_KEYS

# What a later action may choose anew; single values of the others can be changed by their keys.
GROUPS_WHEN_RESUMING = ("mode", "logger")
GROUPS_WHEN_TESTING = ("mode", "logger", "data", "metric", "trainer")


def stored_config(run: RunDirectory, overrides: tuple[str, ...]) -> tuple[DictConfig | None, list[Problem]]:
    """Return the configuration of a later action on `run`, or every problem of the overrides.

    Value overrides win over the stored values; `mode=` brings that mode's own keys; `data=` and other groups replace
    their node; `task=` and `model=` are refused, because the checkpoints hold what they built, and what a resumed run
    trains by is refused, because a whole group would undo what the run was started with.
    """
    parsed, problems = parse_overrides(overrides)
    config = _load(run)
    mode = next((str(one.value()) for one in reversed(parsed) if one.key_or_group == "mode"), config.mode)
    groups = [override for override in parsed if override.key_or_group in group_names()]
    values = [override for override in parsed if override not in groups and not _is_hydra(override)]
    for override in groups:
        problems += _check_group(override, GROUPS_WHEN_RESUMING if mode == "train" else GROUPS_WHEN_TESTING)
    if mode == "train" != config.mode:
        problems.append(Problem("mode", f"{run.path} holds no training: it was made by mode={config.mode}"))
    if problems:
        return None, problems
    stored_data_dir = config.paths.data_dir
    with open_dict(config):
        for override in groups:
            _choose(config, override)
    for override in values:
        problems += check_value(override, config)
    if problems:
        return None, problems
    for override in values:
        _set(config, override)
    config.run = str(run.path)
    config = _relocated(config, stored_data_dir, config.paths.data_dir)
    problems = check_config(config)
    return (None if problems else config), problems


def _load(run: RunDirectory) -> DictConfig:
    """Return the stored configuration, moved to where the run lies now, and to DATA_DIR where its data are gone."""
    config = OmegaConf.load(run.config)
    assert isinstance(config, DictConfig)
    if "${" in str(OmegaConf.to_container(config)):
        raise UserError(f"{run.config}: a stored configuration holds plain values, and this one holds ${{...}}")
    config = _relocated(config, config.paths.run_dir, str(run.path))
    here = os.environ.get("DATA_DIR")
    if here is not None and not Path(config.paths.data_dir).is_dir():
        config = _relocated(config, config.paths.data_dir, str(Path(here).absolute()))
    config.run = str(run.path)
    # how much is said is for the action at hand, and no part of what is stored
    OmegaConf.update(config, "quiet", False, force_add=True)
    with open_dict(config):
        for group, _, name in (key.partition(".") for key in RETIRED_KEYS):
            config[group].pop(name, None)
    OmegaConf.set_struct(config, True)
    return config


def _relocated(config: DictConfig, old: str, new: str) -> DictConfig:
    plain = OmegaConf.to_container(config)
    moved = OmegaConf.create(relocate(plain, old, new))
    assert isinstance(moved, DictConfig)
    OmegaConf.set_struct(moved, True)
    return moved


def _is_hydra(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _check_group(override: Override, allowed: tuple[str, ...]) -> list[Problem]:
    group, name = override.key_or_group, override.value()
    if group not in allowed:
        message = f"{group}={name} cannot be chosen anew for a run that exists"
        mend = "start a new run" if group in ("task", "model") else f"change single values of it: {group}.KEY=VALUE"
        return [Problem(group, message, mend=mend)]
    return list(check_choice(group, name))


def _choose(config: DictConfig, override: Override) -> None:
    """Replace the node of a group by another choice, composed for the run's own task and model."""
    group, name = override.key_or_group, override.value()
    if group == "mode":
        keys = OmegaConf.load(CONF / group / f"{name}.yaml")
        # what the run was started with (init_from, freeze) stays: it is resumed with it
        config.merge_with({key: value for key, value in keys.items() if key == "mode" or key not in config})
        return
    fresh = compose_config([f"task={config.task.name}", f"model={config.model.name}", f"{group}={name}"])
    config[group] = OmegaConf.create(OmegaConf.to_container(fresh[group]))
    if group == "data":
        # the rank at which mAP is cut belongs to the data's protocol
        config.task.monitor = fresh.task._get_node("monitor")._value()
        config.metric = OmegaConf.create(OmegaConf.to_container(fresh.metric))


def _set(config: DictConfig, override: Override) -> None:
    if override.type == OverrideType.DEL:
        node, _, key = override.key_or_group.rpartition(".")
        with open_dict(config):
            (OmegaConf.select(config, node) if node else config).pop(key, None)
        return
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=added)
