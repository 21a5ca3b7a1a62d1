"""The stages of every task and experiment that lists some compose, and name only what may be built."""

import pytest
from omegaconf import OmegaConf

from launch.check import check_config, check_overrides
from launch.compose import compose_config
from launch.groups import CONF, choice_names
from launch.stages import stage_settings
from modes import build


def choices_with_stages():
    """Return `group=name` of those whose own file lists stages; composing all of them would take a minute."""
    files = (
        (group, name, CONF / group / f"{name}.yaml") for group in ("task", "experiment") for name in choice_names(group)
    )
    return [f"{group}={name}" for group, name, file in files if "stages:" in file.read_text(encoding="utf-8")]


STAGES = [
    (choice, number + 1)
    for choice in choices_with_stages()
    for number in range(len(compose_config([choice]).task.stages))
]


def test_the_list_is_not_empty():
    assert {choice for choice, _ in STAGES} >= {"task=crt", "task=mislas", "experiment=cifar100_lt/mislas"}


@pytest.mark.parametrize(("choice", "number"), STAGES)
def test_every_stage_composes_and_its_arguments_bind(choice, number):
    typed = [choice, f"task.stage={number}"]
    overrides = [*stage_settings(typed), *typed]
    assert check_overrides(overrides) == []
    config = compose_config(overrides)
    assert [problem for problem in check_config(config) if not problem.key.startswith("data.root")] == []
    config.paths.run_dir = "somewhere"
    build.check(OmegaConf.to_container(config, resolve=True))
