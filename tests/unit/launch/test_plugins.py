"""A launcher or sweeper that is not installed is an error that names the extra."""

import pytest

from launch import plugins
from launch.check import check_overrides
from launch.groups import choice_names


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(plugins, "_is_installed", lambda module: False)


@pytest.mark.parametrize(
    ("override", "missing", "extra"),
    [
        ("sweep=optuna", "hydra/sweeper=optuna", "sweep"),
        ("sweep=slurm", "hydra/launcher=submitit_slurm", "sweep"),
        ("sweep=ray", "hydra/launcher=ray", "ray"),
        ("hydra/launcher=submitit_local", "hydra/launcher=submitit_local", "sweep"),
    ],
)
def test_the_error_names_the_extra(nothing_installed, override, missing, extra):
    (problem,) = check_overrides([override])
    assert missing in problem.message
    assert problem.mend == f"install the extra: pip install -e '.[{extra}]'"


def test_sweeps_without_a_plugin_need_none(nothing_installed):
    names = [name for name in choice_names("sweep") if name not in ("optuna", "slurm", "ray")]
    assert {"seeds", "bits", "folds"} <= set(names)
    for name in names:
        assert check_overrides([f"sweep={name}"]) == []


def test_an_unknown_sweep_lists_the_choices():
    (problem,) = check_overrides(["sweep=seed"])
    assert "seeds" in problem.choices
