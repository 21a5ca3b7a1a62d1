"""mode=dashboard: a W&B workspace or report of a project, with panels for each pillar; without an account its outline.

Torch-free. W&B is asked only where the dashboard is to be made there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from callbacks.wandb_account import Mode, obstacle, wished_mode
from launch.groups import CONF, choice_names
from modes import wandb_panels
from records.atomic_file import write_text
from records.console import say, tell
from records.dashboard import PILLARS, Dashboard, as_json, as_outline, dashboard_of
from records.errors import UserError

EXIT_DONE, EXIT_FAILED = 0, 1
KINDS = ("workspace", "report")


def run(config: DictConfig, overrides: list[str]) -> int:
    """Write the outline of the dashboard, and make it at W&B where that is wished and possible; return the exit code.

    Raises:
        UserError: an option is none of its choices, or the extra is missing that makes it.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    if settings["kind"] not in KINDS:
        raise UserError(f"kind={settings['kind']}; choices: {', '.join(KINDS)}.")
    dashboard = planned(settings)
    reason = why_not_online(wished_mode(settings["offline"]))
    if reason is None:
        wandb_panels.check_installed()
    folder = Path(settings["paths"]["run_dir"])
    write_text(folder / "dashboard.md", as_outline(dashboard))
    write_text(folder / "dashboard.json", as_json(dashboard))
    say(as_outline(dashboard))
    if reason is None and not make(dashboard, settings["kind"]):
        return EXIT_FAILED
    if reason is not None:
        tell(f"nothing was made at W&B: {reason}")
    tell(f"outline: {folder / 'dashboard.md'}\nthe same as JSON: {folder / 'dashboard.json'}")
    return EXIT_DONE


def planned(settings: Mapping[str, Any]) -> Dashboard:
    """Return the dashboard that the settings describe.

    Raises:
        UserError: a pillar that there is none of, or none at all.
    """
    pillars = list(dict.fromkeys(settings["pillars"]))
    unknown = [one for one in pillars if one not in PILLARS]
    if unknown or not pillars:
        raise UserError(f"pillars={settings['pillars']}; choices, one or more of them: {', '.join(PILLARS)}.")
    tasks = tasks_by_pillar()
    return dashboard_of(
        settings["project"],
        settings["entity"],
        settings["title"],
        {pillar: tasks[pillar] for pillar in pillars},
        map_cuts(),
    )


def tasks_by_pillar() -> dict[str, list[str]]:
    """Return the names of the tasks of each pillar, by where in lit_modules/ their classes lie."""
    found: dict[str, list[str]] = {pillar: [] for pillar in PILLARS}
    for name in choice_names("task"):
        task = _task(name)
        pillar = str(task["_target_"]).split(".")[1]
        if pillar in found:
            found[pillar].append(str(task["name"]))
    return found


def _task(name: str) -> dict[str, Any]:
    """Read a task's own keys, over those of the tasks that its defaults list names."""
    content = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    bases = [base for base in content.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    keys: dict[str, Any] = {}
    for base in bases:
        keys |= _task(base)
    return keys | content.get("task", content)


def map_cuts() -> list[str]:
    """Return the ranks at which the protocols of conf/data/ cut mean average precision: `all`, then rising numbers."""
    contents = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "data").glob("*.yaml"))
    cuts = {str(content["map_cut"]) for content in contents if "map_cut" in content}
    return sorted(cuts, key=lambda cut: (cut != "all", int(cut) if cut.isdigit() else 0))


def why_not_online(mode: Mode | None) -> str | None:
    """Return why the dashboard is not made at W&B; None where it is to be."""
    if mode == "online":
        return None
    if mode is None:
        return obstacle()
    return "offline=true or WANDB_MODE says so"


def make(dashboard: Dashboard, kind: str) -> bool:
    """Make the dashboard at W&B and print its address; say why on standard error where W&B does not take it."""
    try:
        entity = dashboard.entity or wandb_panels.own_entity()
        build = wandb_panels.report_of if kind == "report" else wandb_panels.workspace_of
        made = build(replace(dashboard, entity=entity))
        made.save()
    except Exception as error:  # whatever W&B's own service raises
        print(f"W&B did not take the dashboard ({type(error).__name__}: {error}).", file=sys.stderr, flush=True)
        return False
    tell(f"{kind}: {made.url}")
    return True
