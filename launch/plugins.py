"""Choices that come with an extra: missed before anything looks for its package, so that the error names the extra."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import yaml

from launch.groups import CONF
from launch.problems import Problem

# (group, choice) of Hydra -> (module of the plugin, extra that installs it)
PLUGINS = {
    ("hydra/sweeper", "optuna"): ("hydra_plugins.hydra_optuna_sweeper", "sweep"),
    ("hydra/launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    ("hydra/launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    ("hydra/launcher", "ray"): ("hydra_plugins.hydra_ray_launcher", "ray"),
}
CLIP_MODELS = "clip_"
"""What the names of the models begin with that need the extra `clip`."""


def check_plugin(group: str, name: Any) -> Iterator[Problem]:
    """Yield a problem where the choice `name` of `group` needs a package that is not installed: a plugin, or open_clip.

    `group` is `model`, `hydra/launcher`, `hydra/sweeper`, or `sweep`, whose files name a launcher or a sweeper of
    Hydra's.
    """
    if group == "model" and str(name).startswith(CLIP_MODELS) and not _is_installed("open_clip"):
        mend = "install the extra: pip install -e '.[clip]'"
        yield Problem(group, f"model={name} needs open_clip, which is not installed", mend=mend)
    wanted = _overrides_of(str(name)) if group == "sweep" else [(group, str(name))]
    for choice in wanted:
        module, extra = PLUGINS.get(choice, ("", ""))
        if module and not _is_installed(module):
            mend = f"install the extra: pip install -e '.[{extra}]'"
            yield Problem(group, f"{group}={name} needs {'='.join(choice)}, which is not installed", mend=mend)


def _overrides_of(sweep: str) -> list[tuple[str, str]]:
    """Return the (group, choice) pairs of Hydra's that a file of `sweep/` asks for."""
    file = CONF / "sweep" / f"{sweep}.yaml"
    if not file.is_file():
        return []
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return [(key.removeprefix("override ").lstrip("/"), str(choice)) for key, choice in pairs]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
