import os
import subprocess
from importlib import metadata

import pytest

from records.environment import git_state, hardware, versions


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_commit_and_changes(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "new_method").write_text("untracked files change results too")
    assert git_state(checkout) == {"commit": commit, "dirty": True}


def test_no_commit_of_a_foreign_checkout(checkout, tmp_path):
    inside = checkout / "site-packages"
    inside.mkdir()
    assert git_state(inside) is None
    assert git_state(tmp_path) is None


def test_no_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) is None


def test_hardware():
    machine = hardware(["GPU A"])
    assert machine["gpus"] == ["GPU A"]
    assert machine["cores"] == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else True
    assert machine["cpu"]
    assert machine["memory_gib"] > 0


def test_versions():
    found = versions()
    assert found["numpy"] == metadata.version("numpy")
    assert found["python"].count(".") == 2


def test_a_package_that_is_missing_is_null(monkeypatch):
    monkeypatch.setattr("records.environment.PACKAGES", ("no-such-package-anywhere",))
    assert versions()["no-such-package-anywhere"] is None
