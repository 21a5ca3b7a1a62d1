"""The checker reports every problem at once, with the key path, the choices and the nearest name."""

import subprocess
import sys

import pytest

from launch.check import check_overrides


def only(overrides):
    (problem,) = check_overrides(overrides)
    return problem


def test_a_good_command_has_no_problem():
    assert check_overrides(["task=greedyhash", "model=beit2", "task.bits=48", "seed=3"]) == []


def test_a_wrong_choice_lists_the_choices_and_the_nearest():
    problem = only(["task=greedyhahs"])
    assert problem.key == "task"
    assert "greedyhash" in problem.choices
    assert "did you mean greedyhash" in problem.mend


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("task.bitz=48", "task.bits"),
        ("bits=48", "task.bits"),
        ("sead=1", "seed"),
        ("optim.optimizer.momentun=0.9", "optim.optimizer.momentum"),
        ("trainer.max_epoch=3", "trainer.max_epochs"),
        ("metric.tie=stable", "metric.ties"),
    ],
)
def test_a_wrong_key_at_any_depth_names_the_nearest(override, meant):
    problem = only([override, "optim=sgd"])
    assert problem.key == override.split("=")[0]
    assert meant in problem.mend


@pytest.mark.parametrize("override", ["task.bits=many", "seed=one", "optim.weight_decay=[1]", "task=[greedyhash]"])
def test_a_wrong_type(override):
    assert only([override]).key == override.split("=")[0]


@pytest.mark.parametrize("target", ["os.system", "torch.load", "torch.hub.load"])
def test_a_target_that_is_not_allowed(target):
    problem = only([f"task._target_={target}"])
    assert problem.key == "task._target_"
    assert target in problem.message


def test_all_problems_at_once():
    problems = check_overrides(["task=gredyhash", "model=bait2", "sede=1", "task.bits=abc", "a b", "optim.lr=fast"])
    assert {problem.key for problem in problems} >= {"task", "model", "sede", "task.bits"}
    assert any("'a b'" in problem.message for problem in problems)
    assert len(problems) == 6


def test_each_value_of_a_sweep_is_checked():
    problems = check_overrides(["task=greedyhash,gredyhash", "task.bits=16,x"])
    assert [problem.key for problem in problems] == ["task", "task.bits"]


def test_a_missing_folder_names_the_ways_round():
    problem = only(["data=cifar10_retrieval", "data.root=no/such/folder", "data.download=false"])
    assert problem.key == "data.root"
    assert "no/such/folder" in problem.message
    assert "DATA_DIR" in problem.mend


def test_data_of_the_wrong_kind_lists_fitting_data():
    problem = only(["data.provides=[text]"])
    assert problem.key == "data"
    assert "digits" in problem.choices


def test_a_run_that_does_not_exist():
    assert only(["init_from=nowhere", "+init_from=nowhere"][1:]).key == "init_from"


def test_additions_and_deletions_are_the_users_will():
    assert check_overrides(["+note=hello", "~optim.optimizer.betas"]) == []


def test_checking_imports_neither_torch_nor_lightning():
    code = (
        "import sys; from launch.check import check_overrides; check_overrides(['task.bitz=1']); "
        "check_overrides(['model=beit2']); print([m for m in ('torch', 'lightning', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("override", ["logger=null", "~optim", "task=null"])
def test_a_group_that_must_not_be_left_out(override):
    problem = only([override])
    assert problem.message == "cannot be left out"
    assert problem.choices


def test_a_glob_stands_for_the_choices_it_matches():
    assert check_overrides(["task=glob(greedy*)"]) == []


@pytest.mark.parametrize("override", ["trainer.compile=off", "debug.traceback=no", "model.channels_last=yes"])
def test_words_that_only_look_like_false_are_refused(override):
    assert "true or false" in only([override]).message


def test_another_mode_needs_a_run():
    assert "run=DIR" in only(["mode=test"]).mend
