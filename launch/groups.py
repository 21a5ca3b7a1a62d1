"""The YAML tree as a registry: which groups there are, which choices each has, what each says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONF = Path(__file__).resolve().parent.parent / "conf"
CONFIG_NAME = "config"
HYDRA_GROUP_PREFIX = "hydra"


@dataclass(frozen=True)
class Choice:
    """One YAML file of a group: its name, and its first comment line as the description."""

    name: str
    description: str


def group_names() -> list[str]:
    """Return the names of the groups, sorted; nested folders belong to the group above them."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices(group: str) -> list[Choice]:
    """Return the choices of `group`, sorted by name; files in nested folders are named `folder/file`."""
    folder = CONF / group
    files = sorted(folder.rglob("*.yaml"))
    return [Choice(path.relative_to(folder).with_suffix("").as_posix(), _description(path)) for path in files]


def choice_names(group: str) -> list[str]:
    """Return the names of the choices of `group`, sorted."""
    return [choice.name for choice in choices(group)]


def _description(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line[2:].strip()
    return ""
