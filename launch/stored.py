"""Later actions on a run: its stored config.yaml is the base, the command line changes values on top of it.

A stored configuration is resolved, so its paths no longer follow `paths.run_dir` and `paths.data_dir`: they are moved.
"""

from __future__ import annotations

import os

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from launch.check import check_choice, check_config, check_value
from launch.command_line import parse_overrides
from launch.compose import compose_config
from launch.groups import CONF, group_names
from launch.paths import relocate
from launch.problems import Problem
from records.run_directory import RunDirectory

FIXED_GROUPS = ("task", "model", "experiment", "debug", "paths")


def stored_config(run: RunDirectory, overrides: tuple[str, ...]) -> tuple[DictConfig | None, list[Problem]]:
    """Return the configuration of a later action on `run`, or every problem of the overrides.

    Value overrides win over the stored values; `mode=` brings that mode's own keys; `data=` and other groups replace
    their node; `task=` and `model=` are refused, because the checkpoints hold what they built.
    """
    parsed, problems = parse_overrides(overrides)
    groups = [override for override in parsed if override.key_or_group in group_names()]
    values = [override for override in parsed if override not in groups and not _is_hydra(override)]
    for override in groups:
        problems += _check_group(override)
    if problems:
        return None, problems
    config = _load(run)
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
    config = _relocated(config, stored_data_dir, config.paths.data_dir)
    problems = check_config(config)
    return (None if problems else config), problems


def _load(run: RunDirectory) -> DictConfig:
    """Return the stored configuration, moved to where the run lies now and to this machine's DATA_DIR."""
    config = OmegaConf.load(run.config)
    assert isinstance(config, DictConfig)
    config = _relocated(config, config.paths.run_dir, str(run.path))
    config = _relocated(config, config.paths.data_dir, os.environ.get("DATA_DIR", config.paths.data_dir))
    config.run = str(run.path)
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


def _check_group(override: Override) -> list[Problem]:
    group, name = override.key_or_group, override.value()
    if group in FIXED_GROUPS:
        return [
            Problem(
                group,
                f"{group}={name} cannot be changed for a run that exists",
                mend="start a new run instead",
            )
        ]
    return list(check_choice(group, name))


def _choose(config: DictConfig, override: Override) -> None:
    """Replace the node of a group by another choice, composed for the run's own task and model."""
    group, name = override.key_or_group, override.value()
    if group == "mode":
        config.merge_with(OmegaConf.load(CONF / group / f"{name}.yaml"))
        return
    fresh = compose_config([f"task={config.task.name}", f"model={config.model.name}", f"{group}={name}"])
    config[group] = OmegaConf.create(OmegaConf.to_container(fresh[group]))


def _set(config: DictConfig, override: Override) -> None:
    added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD)
    OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=added)
