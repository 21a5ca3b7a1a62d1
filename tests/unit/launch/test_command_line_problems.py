"""What is refused of Hydra's own flags."""

import pytest

from launch.command_line import REFUSED_FLAGS, parse_overrides, read_command_line


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


@pytest.mark.parametrize("value", ["16,32", "choice(16,32)", "range(1,3)"])
def test_several_values_for_one_run_are_a_problem(value):
    (problem,) = read_command_line([f"task.bits={value}", "seed=1"]).problems
    assert problem.key == "task.bits"
    assert value in problem.message
    assert "-m" in problem.mend


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "task.bits=16,32"],
        ["sweep=seeds", "task.bits=16,32"],
        ["sweep.resume=DIR", "seed=0,1"],
        ["task.list=[16,32]"],
        ['row="a,b"'],
        ["init_from=a,b"],
    ],
)
def test_several_values_of_a_sweep_and_commas_within_one_value_are_none(arguments):
    assert read_command_line(arguments).problems == []


def test_flags_may_stand_between_overrides():
    line = read_command_line(["task.bits=16", "-m", "seed=0,1", "--cfg", "job", "row=x"])
    assert line.overrides == ("task.bits=16", "seed=0,1", "row=x")
    assert line.flag_arguments == ("-m", "--cfg", "job")
    assert line.multirun


@pytest.mark.parametrize("text", ["task.bits=16 seed=1", "task.bits", "task.bits=16,", "task.bits=[1"])
def test_what_is_no_override_is_told_with_its_cause(text):
    _, (problem,) = parse_overrides((text,))
    assert repr(text) in problem.message
    assert "None" not in problem.message
    assert "expecting" not in problem.message
