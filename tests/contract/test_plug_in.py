"""A head trained anew on a trained run: before and after in one run, ensembles, resuming, stages, wrong checkpoints."""

import re
import subprocess
import sys

import pytest
import torch
from task_runs import assert_equal_runs, checkpoint, run_and_killed_run, short_run, start

from launch.groups import CONF
from launch.stored import stored_config
from modes import test as testing
from records.result import read_result
from records.run_directory import open_run

WHOLE_TEST = {"trainer.limit_test_batches": 1.0, "trainer.limit_val_batches": 1.0, "data.val_fraction": 0.2}
ENSEMBLE = ["task.ensemble=prob", "task.temperatures=validation"]


def overrides(task, *further):
    shortened = [one for one in short_run(task) if one.partition("=")[0] not in WHOLE_TEST]
    return [*shortened, *(f"{key}={value}" for key, value in WHOLE_TEST.items()), *further]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run of cross-entropy."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert start(directory, overrides("ce", "trainer.max_epochs=3", "trainer.limit_train_batches=1.0")) == 0
    return directory


def judged(directory, prefix=""):
    """Return the test's metrics whose names begin with a prefix, without it."""
    metrics = read_result(directory).metrics
    names = [name for name in metrics if name.startswith(f"test/{prefix}")]
    return {name.removeprefix(f"test/{prefix}"): metrics[name] for name in names}


def parameters(directory):
    """Return the weights that a run tests and that others start from."""
    best = directory / "checkpoints" / "best.ckpt"
    return torch.load(best, weights_only=True)["state_dict"] if best.is_file() else checkpoint(directory)["state_dict"]


@pytest.mark.parametrize("task", ["gml", "ce", "balanced_softmax", "logit_adjustment"])
def test_a_head_is_judged_before_and_after(task, trained, tmp_path):
    assert start(tmp_path / "run", overrides(task, f"init_from={trained}", "freeze=backbone")) == 0
    assert judged(tmp_path / "run", "before_") == judged(trained)
    assert judged(tmp_path / "run")["ece"] != judged(trained)["ece"]
    first, last = parameters(trained), parameters(tmp_path / "run")
    for name, tensor in last.items():
        assert torch.equal(tensor, first[name]) == name.startswith("backbone."), name


def test_the_plug_in_resumes_exactly_and_is_tested_again_the_same(trained, tmp_path, monkeypatch):
    wanted = overrides("gml", f"init_from={trained}", *ENSEMBLE)
    straight, killed = run_and_killed_run(monkeypatch, tmp_path, wanted)
    assert_equal_runs(straight, killed)
    assert judged(straight, "before_") == judged(trained)
    assert {"t1", "t2"} <= judged(straight).keys()
    config, problems = stored_config(open_run(straight), ("mode=test", f"run='{straight}'"))
    assert not problems
    assert testing.run(config, ["mode=test"]) == 0
    again = next((straight / "evaluations").iterdir())
    assert judged(again) == judged(straight)


def test_freeze_all_judges_without_training(trained, tmp_path):
    wanted = overrides("gml", f"init_from={trained}", "freeze=all")
    assert start(tmp_path / "alone", wanted) == 0
    assert start(tmp_path / "ensemble", [*wanted, *ENSEMBLE]) == 0
    assert start(tmp_path / "tau", overrides("tau_norm", f"init_from={trained}", "task.tau=null")) == 0
    alone = judged(tmp_path / "alone")
    assert alone == {**judged(trained), **{f"before_{name}": value for name, value in judged(trained).items()}}
    # the same classifier twice: the ensemble predicts what it does
    assert judged(tmp_path / "ensemble")["accuracy"] == alone["accuracy"]
    assert judged(tmp_path / "tau", "before_") == judged(trained)
    assert 0 <= judged(tmp_path / "tau")["tau"] <= 2
    for name, tensor in parameters(tmp_path / "tau").items():
        assert torch.equal(tensor, parameters(trained)[name]), name


def test_a_foreign_checkpoint_has_an_old_classifier_too(trained, tmp_path):
    foreign = {
        "module." + name.removeprefix("backbone.network.").replace("classifier.", "linear."): tensor
        for name, tensor in parameters(trained).items()
    }
    torch.save({"state_dict": foreign}, tmp_path / "foreign.pth")
    assert start(tmp_path / "run", overrides("gml", f"init_from={tmp_path / 'foreign.pth'}", "freeze=all")) == 0
    assert judged(tmp_path / "run", "before_") == judged(trained)


@pytest.mark.parametrize(
    ("further", "text"),
    [
        (["model.width=16"], r"another shape.*model\.architecture"),
        (["task.classifier=cosine", "task.ensemble=prob"], r"no old classifier"),
        (["init_parts=backbone", "task.ensemble=prob"], r"no old classifier"),
        (["freeze=none", "task.ensemble=prob"], r"freeze=backbone"),
        (["data.val_fraction=0", *ENSEMBLE], r"data\.val_fraction=0\.1"),
    ],
)
def test_what_cannot_be_combined_is_refused(further, text, trained, tmp_path, capsys):
    keys = {one.partition("=")[0] for one in further}
    wanted = [one for one in overrides("gml", f"init_from={trained}") if one.partition("=")[0] not in keys]
    assert start(tmp_path / "run", [*wanted, *further]) != 0
    assert re.search(text, capsys.readouterr().err)


def staged(task, directory):
    command = [sys.executable, str(CONF.parent / "run.py"), *overrides(task), f"hydra.run.dir={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return directory / "stage1", directory / "stage2"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["crt", "lws", "mislas"])
def test_both_stages_run_by_one_command(task, tmp_path):
    first, second = staged(task, tmp_path / "run")
    assert read_result(tmp_path / "run").metrics == read_result(second).metrics
    begun, ended = parameters(first), parameters(second)
    moved = {name for name, tensor in begun.items() if not torch.equal(tensor, ended[name])}
    if task == "mislas":
        assert any(name.endswith("running_mean") for name in moved)
        moved = {name for name in moved if "running_" not in name and "num_batches" not in name}
        assert moved == {"classifier.weight", "classifier.bias"}
    else:
        assert judged(second, "before_") == judged(first)
        assert moved == ({"classifier.weight", "classifier.bias"} if task == "crt" else set())
    assert ("class_scale" in ended) == (task != "crt")
