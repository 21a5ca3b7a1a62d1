"""Every YAML of conf/ composes and names only what may be built, with arguments that fit; the debug profiles work."""

from itertools import product

import pytest
import yaml
from omegaconf import OmegaConf

from launch.check import check_config
from launch.compose import compose_choice, compose_config
from launch.groups import CONF, choice_names, group_names
from launch.plugins import check_plugin
from modes import build, train
from records.metrics_file import read_rows

ALL_CHOICES = [(group, name) for group in group_names() for name in choice_names(group)]
EXPERIMENTS = choice_names("experiment")
DEBUG_PROFILES = [name for name in choice_names("debug") if name != "none"]


def override_for(group, name):
    takes_run = group == "mode" and name != "train" and "run" in settings_in(group, name)
    # a sampling rule belongs to recognition, and data to the pillar that takes them
    task = {"rule": ["task=ce"], "data": [f"task={task_for(name)}"] if group == "data" else []}.get(group, [])
    return [f"{group}={name}", *task, *(["run=."] if takes_run else [])]


def task_for(data):
    """Return a task that takes data of this kind: the first of each pillar that does."""
    provides = settings_in("data", data)["provides"]
    pillars = {"greedyhash": {"retrieval"}, "ce": {"classification"}, "zeroshot": {"few_shot"}}
    return next(task for task, needs in pillars.items() if needs <= set(provides))


def settings_in(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def settings_of(config):
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("name", choice_names("data"))
def test_data_provide_alone_what_they_provide_in_a_run(name):
    config = compose_config(override_for("data", name))
    assert compose_choice("data", name).provides == config.data.provides


def test_the_lists_are_not_empty():
    files = list(CONF.rglob("*.yaml"))
    assert len(ALL_CHOICES) == len(files) - 1, "every file but config.yaml is a choice of a group"
    assert "greedyhash" in choice_names("task")
    assert EXPERIMENTS
    assert {"one_batch", "overfit", "profile"} <= set(DEBUG_PROFILES)


@pytest.mark.parametrize(("group", "name"), ALL_CHOICES)
def test_every_choice_composes_and_its_arguments_bind(group, name):
    for problem in check_plugin(group, name):
        pytest.skip(str(problem))
    config = compose_config(override_for(group, name))
    assert [problem for problem in check_config(config) if not problem.key.startswith("data.root")] == []
    config.paths.run_dir = "somewhere"
    build.check(settings_of(config))


@pytest.mark.parametrize(("experiment", "debug"), list(product(EXPERIMENTS, DEBUG_PROFILES)))
def test_a_debug_profile_beats_an_experiment(experiment, debug):
    config = compose_config([f"experiment={experiment}", f"debug={debug}"])
    profile = yaml.safe_load((CONF / "debug" / f"{debug}.yaml").read_text())
    for key, value in profile.get("trainer", {}).items():
        assert config.trainer[key] == value


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_starts_with_what_it_is_and_where_its_numbers_come_from(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# ")


def debug_run(profile, directory, *overrides):
    overrides = [f"debug={profile}", "trainer.accelerator=cpu", f"paths.run_dir='{directory}'", *overrides]
    assert train.run(compose_config(overrides), overrides) == 0
    return read_rows(directory / "metrics.csv")


@pytest.mark.slow
def test_overfit_repeats_the_same_batches_until_they_are_learnt(tmp_path):
    losses = [row["train/loss"] for row in debug_run("overfit", tmp_path) if "train/loss" in row]
    assert len(losses) == 50
    assert losses[-1] < 0.1 * losses[0]
    assert not any(name.startswith("val/") for row in read_rows(tmp_path / "metrics.csv") for name in row)


def test_profile_says_where_the_time_goes(tmp_path, capsys):
    debug_run("profile", tmp_path, "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    assert "run_training_batch" in (tmp_path / "profile.txt").read_text()
    assert "run_training_batch" in capsys.readouterr().out
