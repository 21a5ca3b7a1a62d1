"""What pyproject.toml installs is what lies in the folders."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]
NOT_INSTALLED = {"tests", "docs", "benchmarks"}


def test_every_package_is_installed():
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [path.relative_to(PROJECT).parent for path in PROJECT.glob("[a-z]*/**/__init__.py")]
    found = [".".join(folder.parts) for folder in files if folder.parts[0] not in NOT_INSTALLED]
    assert sorted(listed) == sorted(found)
