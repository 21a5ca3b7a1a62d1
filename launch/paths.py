"""Path keys on the command line: names with blanks, brackets, commas or non-ASCII letters need no quoting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from records.run_settings import names_start

PATH_KEYS = frozenset(
    {
        "run", "runs", "image", "images", "image_dir", "image_root", "database", "add", "remove",
        "into",
        "data.root", "data.split_file", "data.file", "data.image_dir", "data.lists_dir", "data.class_names",
        "model.weights_file",
        "hydra.run.dir", "hydra.sweep.dir", "sweep.resume",
    }
)  # fmt: skip
PATH_PREFIX = "paths."
TEXT_KEYS = frozenset({"baseline", "title"})
"""Keys of words for people, which hold blanks and signs of Hydra's grammar too."""
# A sweep hands its jobs the braces of an interpolation escaped.
INTERPOLATION = re.compile(r"\$\\?\{")


def is_path_key(key: str) -> bool:
    """Tell whether the value of `key` is a path of this machine."""
    return key in PATH_KEYS or key.startswith(PATH_PREFIX) or names_start(key)


def quote_paths(overrides: list[str], multirun: bool) -> list[str]:
    """Return the overrides with the values of path keys quoted for Hydra's grammar.

    Under multirun a comma separates the jobs of a sweep unless the whole value is a path that exists.
    """
    return [_quote(override, multirun) for override in overrides]


def _quote(override: str, multirun: bool) -> str:
    key, equals, value = override.partition("=")
    is_quoted = is_path_key(key.lstrip("+")) or key in TEXT_KEYS
    if not equals or not is_quoted or not value or _is_grammar(value, multirun):
        return override
    escaped = _home(value).replace('"', '\\"')
    trailing_backslash = "\\" if escaped.endswith("\\") else ""
    return f'{key}="{escaped}{trailing_backslash}"'


def _is_grammar(value: str, multirun: bool) -> bool:
    if value[0] in "'\"" or value == "null" or INTERPOLATION.search(value):
        return True
    if value.startswith("[") or (multirun and "," in value):
        # a list of paths, or the jobs of a sweep, unless the whole of it is the name of one path
        return not Path(value).exists()
    return False


def _home(value: str) -> str:
    return str(Path(value).expanduser()) if value.startswith("~") else value


def relocate(node: Any, old: str, new: str) -> Any:
    """Return a plain configuration in which every path at or below the folder `old` lies at or below `new`.

    `old` must be absolute: a relative one could be any word of the configuration.
    """
    if isinstance(node, dict):
        return {key: relocate(child, old, new) for key, child in node.items()}
    if isinstance(node, list):
        return [relocate(child, old, new) for child in node]
    if isinstance(node, str) and Path(old).is_absolute() and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node
