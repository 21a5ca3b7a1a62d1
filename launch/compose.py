"""Composition: overrides to a configuration, through Hydra, without starting anything."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from launch.groups import CONF, CONFIG_NAME

HYDRA_VERSION_BASE = "1.3"


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration that `overrides` make of the YAML tree, unresolved and in struct mode.

    Raises Hydra's own errors on the first override that does not fit; `launch.check` finds them all.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base=HYDRA_VERSION_BASE):
        return compose(config_name=CONFIG_NAME, overrides=list(overrides))
