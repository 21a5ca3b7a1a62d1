"""The allow-list of `_target_`s: which names a configuration may build. Torch-free, so that it answers at once.

A package name alone is no guard: `torch.hub.load` and `torch.load` live in an allowed package and run foreign code.
So a target is either a class (a name in CamelCase, whose bases are checked before it is built, see `modes/binding.py`)
or one of the factories named here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launch.problems import Problem, did_you_mean, nearest

CLASS_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "lit_modules",
    "datamodules",
    "callbacks",
)

FACTORIES = (
    "callbacks.loggers.wandb_logger",
    "callbacks.progress.progress_bar",
    "lit_modules.backbones.backbone.build_backbone",
)


def problem_with(target: object) -> str:
    """Return why `target` may not be built, or an empty string where it may as far as its name tells."""
    if not isinstance(target, str) or not target:
        return f"{target!r} is not the name of a class"
    if target in FACTORIES:
        return ""
    parts = target.split(".")
    if parts[0] not in CLASS_PACKAGES:
        return f"{target} is not allowed: it lies in none of {', '.join(CLASS_PACKAGES)}"
    if len(parts) < 2 or any(part.startswith("_") for part in parts) or not parts[-1][:1].isupper():
        return f"{target} is not allowed: only classes and the factories {', '.join(FACTORIES)} may be built"
    return ""


def target_nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key path, node) of every mapping with a `_target_` in a plain configuration, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from target_nodes(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for position, child in enumerate(node):
            yield from target_nodes(child, f"{path}[{position}]")


def check_target_names(config: dict[str, Any]) -> list[Problem]:
    """Return a problem for each `_target_` of a plain configuration whose name is not on the allow-list."""
    problems = []
    for path, node in target_nodes(config):
        target = node["_target_"]
        message = problem_with(target)
        if message:
            problems.append(Problem(f"{path}._target_", message, mend=did_you_mean(nearest(str(target), FACTORIES))))
    return problems
