"""What is refused of Hydra's own flags."""

import pytest

from launch.command_line import REFUSED_FLAGS, read_command_line


@pytest.mark.parametrize("flag", REFUSED_FLAGS)
def test_flags_that_would_start_what_nobody_has_checked_are_refused(flag):
    name = "--" + flag.replace("_", "-")
    (problem,) = read_command_line([name, "x", "task.bits=16"]).problems
    assert problem.key == name
    assert problem.mend


@pytest.mark.parametrize(
    ("arguments", "first", "other"),
    [
        (["-m", "--cfg", "job"], "--multirun", "--cfg"),
        (["--cfg", "job", "--info", "config"], "--cfg", "--info"),
        (["seed=0,1", "--multirun", "--info", "defaults"], "--multirun", "--info"),
    ],
)
def test_flags_that_exclude_each_other_are_one_problem(arguments, first, other):
    (problem,) = read_command_line(arguments).problems
    assert problem.key == first
    assert other in problem.message


@pytest.mark.parametrize(
    "arguments", [["-m", "seed=0,1"], ["--cfg", "job"], ["--info", "config"], ["--hydra-help"], []]
)
def test_one_flag_alone_is_no_problem(arguments):
    assert read_command_line(arguments).problems == []
