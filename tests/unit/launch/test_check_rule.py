"""A training rule that nothing would follow is a problem, and so are data of another kind than the task's."""

import pytest

from launch.check import check_overrides


def texts(*overrides):
    return [str(problem) for problem in check_overrides(list(overrides))]


@pytest.mark.parametrize(
    "overrides", [["task=ce", "rule=drw"], ["task=ce", "rule=drs"], ["task=greedyhash", "rule=balanced"]]
)
def test_a_rule_that_data_and_task_follow_is_no_problem(overrides):
    assert texts(*overrides) == []


def test_weights_that_a_task_does_not_take_are_a_problem():
    (text,) = texts("task=greedyhash", "rule=reweight")
    assert "rule reweight weighs the classes, and task greedyhash takes no class_weights" in text


def test_a_sampler_that_data_do_not_take_is_a_problem():
    assert any("takes no sampler" in text for text in texts("task=zeroshot", "rule=balanced"))


def test_data_of_another_kind_are_named_although_the_task_asks_them_for_more():
    (text,) = texts("task=greedyhash", "data=digits_lt")
    assert "task greedyhash needs retrieval data, and digits_lt provides" in text
    assert "map_cut" not in text
