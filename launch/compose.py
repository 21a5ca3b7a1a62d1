"""Composition: overrides to a configuration, through Hydra, without starting anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from launch.groups import CONF, CONFIG_NAME
from launch.run_stamp import run_stamp

HYDRA_VERSION_BASE = "1.3"

OmegaConf.register_new_resolver(
    "sweep_stamp", lambda: run_stamp(sys.argv[1:]).replace("/", "_"), use_cache=True, replace=True
)
OmegaConf.register_new_resolver("run_stamp", lambda: run_stamp(sys.argv[1:]), use_cache=True, replace=True)


def compose_config(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Return the configuration that `overrides` make of the YAML tree, unresolved and in struct mode.

    `with_hydra` keeps Hydra's own settings in it, under the key `hydra`.
    Raises Hydra's own errors on the first override that does not fit; `launch.check` finds them all.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base=HYDRA_VERSION_BASE):
        return compose(config_name=CONFIG_NAME, overrides=list(overrides), return_hydra_config=with_hydra)


def compose_choice(group: str, name: str) -> DictConfig:
    """Return the choice `name` of `group` with what it builds on and without the other groups, unresolved."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base=HYDRA_VERSION_BASE):
        choice: DictConfig = compose(config_name=f"{group}/{name}")[group]
    return choice
