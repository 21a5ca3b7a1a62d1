"""A task in stages: the commands of its stages, what resumes, what fails."""

import shutil
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from launch import stages
from launch.compose import compose_config
from launch.stages import Asked, is_in_stages, run_stages, stage_command, stage_directory, stage_settings
from records.errors import UserError
from records.result import RunRecord, read_result
from records.run_directory import RunDirectory


@pytest.fixture
def config(tmp_path):
    composed = compose_config([f"paths.run_dir={tmp_path}/run", "+task.stage=null"])
    OmegaConf.set_struct(composed, False)
    composed.task.stages = [["trainer.max_epochs=7"], ["trainer.max_epochs=2", "schedule=cosine"]]
    return composed


def command(number, config, typed=(), now=None):
    asked = Asked(tuple(typed), tuple(typed if now is None else now))
    return stage_command(number, config, asked, RunDirectory(config.paths.run_dir))[2:]


def test_only_all_stages_of_a_training_are_run_by_the_parent(config):
    assert is_in_stages(config)
    config.task.stage = 2
    assert not is_in_stages(config)
    assert not is_in_stages(compose_config([]))


def test_each_stage_has_its_settings_and_starts_from_the_one_before(config):
    run = config.paths.run_dir
    first, second = command(1, config, ["seed=3"]), command(2, config, ["seed=3"])
    assert first == [
        "trainer.max_epochs=7", "seed=3", "task.stage=1", "hydra.mode=RUN", f'hydra.run.dir="{run}/stage1"',
    ]  # fmt: skip
    assert second == [
        "trainer.max_epochs=2", "schedule=cosine", "seed=3", f'init_from="{run}/stage1"', "task.stage=2",
        "hydra.mode=RUN", f'hydra.run.dir="{run}/stage2"',
    ]  # fmt: skip


def test_what_is_typed_wins_and_is_said_once(config):
    texts = command(2, config, ["trainer.max_epochs=1", "schedule=step", "init_from=somewhere", "task.stage=null"])
    assert [text for text in texts if text.startswith("trainer.max_epochs")] == ["trainer.max_epochs=1"]
    assert [text for text in texts if text.startswith("schedule")] == ["schedule=step"]
    assert [text for text in texts if text.startswith("init_from")] == [f'init_from="{config.paths.run_dir}/stage1"']
    assert [text for text in texts if text.startswith("task.stage")] == ["task.stage=2"]


def test_a_stage_that_is_run_alone_has_its_settings_and_what_is_typed_wins():
    typed = ["task=crt", "task.stage=2", "init_from=somewhere", "trainer.max_epochs=3"]
    found = stage_settings(typed)
    own = dict(text.split("=") for text in found)
    assert own["rule"] == "class_aware"
    assert own["freeze"] == "backbone"
    assert "trainer.max_epochs" not in own
    assert stage_settings([*found, *typed]) == []
    for whole in (["task=crt"], ["task=crt", "task.stage=null"], ["task=ce"], ["task=crt", "task.stage=1"]):
        assert stage_settings(whole) == []


def test_a_debug_profile_beats_the_settings_of_a_stage(config):
    config.task.stages[0] = ["trainer.fast_dev_run=false", "trainer.max_epochs=7"]
    texts = command(1, config, ["debug=one_batch"])
    assert "trainer.fast_dev_run=false" not in texts
    assert "trainer.max_epochs=7" in texts


def test_a_stage_that_was_begun_goes_on(config):
    stage = stage_directory(RunDirectory(config.paths.run_dir), 1)
    finish(stage, "interrupt")
    assert command(1, config, ["seed=3"], now=[]) == ["mode=train", f'run="{stage.path}"']
    longer = command(1, config, ["seed=3", "trainer.max_epochs=9"], now=["run=somewhere", "trainer.max_epochs=9"])
    assert longer == ["mode=train", f'run="{stage.path}"', "trainer.max_epochs=9"]


def test_a_typed_group_takes_the_single_values_of_the_stage_with_it(config):
    config.task.stages[1] = ["schedule=step", "schedule.milestones=[0.5]", "trainer.max_epochs=2"]
    texts = command(2, config, ["schedule=cosine", "~callbacks.ema"])
    assert [text for text in texts if "schedule" in text] == ["schedule=cosine"]
    assert {"trainer.max_epochs=2", "~callbacks.ema"} <= set(texts)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["task=mislas", "trainer=gpu", "data=cifar100_lt"], {"task.mixup_alpha": 0, "trainer.max_epochs": 10}),
        (["task=crt", "trainer=gpu"], {"trainer.max_epochs": 10, "rule.sampler.length": "images"}),
        (["task=ride_routed", "data=cifar100_lt", "optim=sgd"], {"data.batch_size": 512, "optim.lr": 0.01}),
        (["experiment=cifar100_lt/crt", "trainer=gpu", "optim=sgd"], {"trainer.max_epochs": 10, "optim.lr": 0.1}),
    ],
)
def test_a_typed_group_that_the_stage_does_not_choose_leaves_its_values(typed, kept):
    overrides = [*typed, "task.stage=2", "init_from=somewhere"]
    config = compose_config([*stage_settings(overrides), *overrides])
    assert {key: OmegaConf.select(config, key) for key in kept} == kept


def test_a_value_that_the_typed_choice_does_not_know_goes_with_the_one_it_replaces(config):
    config.task.stages[1] = ["schedule.milestones=[0.5]", "trainer.max_epochs=2"]
    typed = ["schedule=cosine"]
    changed = compose_config([*typed, f"paths.run_dir={config.paths.run_dir}"])
    OmegaConf.set_struct(changed, False)
    changed.task.stages = config.task.stages
    assert [text for text in command(2, changed, typed) if "schedule" in text] == typed


def finish(stage, how, *arguments):
    stage.path.mkdir(parents=True, exist_ok=True)
    stage.config.write_text("task: {}\n")
    names = {"task": "t", "model": "m", "data": "d", "mode": "train", "seed": 0}
    record = RunRecord.start(stage, **names, overrides=[], command="", resume_command="")
    getattr(record, how)(*arguments)


@pytest.fixture
def fake_stages(monkeypatch, config):
    """Let a stage's process write the record that `outcomes` holds for it; returns (outcomes, stages run)."""
    outcomes, begun = {}, []

    def fake_command(number, config, asked, run):
        begun.append(number)
        outcomes[number](stage_directory(run, number))
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(stages, "stage_command", fake_command)
    return outcomes, begun


def test_all_stages_make_one_record_with_the_last_ones_metrics(config, fake_stages):
    outcomes, begun = fake_stages
    outcomes[1] = lambda stage: finish(stage, "finish", {"test/accuracy": 0.25})
    outcomes[2] = lambda stage: finish(stage, "finish", {"test/accuracy": 0.5})
    assert run_stages(config, ["task=t"]) == 0
    run = RunDirectory(config.paths.run_dir)
    assert begun == [1, 2]
    assert read_result(run.result).status == "completed"
    assert read_result(run.result).metrics == {"test/accuracy": 0.5}
    assert yaml.safe_load(run.config.read_text())["task"]["stages"][0] == ["trainer.max_epochs=7"]
    with pytest.raises(UserError, match="completed"):
        run_stages(config, [], is_resumed=True)
    with pytest.raises(UserError, match="lies there already"):
        run_stages(config, [])


def test_a_failed_stage_ends_the_run_and_resuming_skips_what_is_done(config, fake_stages, capsys):
    outcomes, begun = fake_stages
    outcomes[1] = lambda stage: finish(stage, "finish", {})
    outcomes[2] = lambda stage: finish(stage, "fail", "no luck")
    assert run_stages(config, []) == 1
    result = read_result(RunDirectory(config.paths.run_dir).result)
    assert (result.status, result.reason) == ("failed", "stage 2: no luck")
    assert f"mode=train run={config.paths.run_dir}" in capsys.readouterr().err
    outcomes[2] = lambda stage: finish(stage, "finish", {"test/accuracy": 1.0})
    assert run_stages(config, [], is_resumed=True) == 0
    assert begun == [1, 2, 2]


def test_a_stage_that_dies_without_a_word_is_named(config, fake_stages):
    outcomes, _ = fake_stages
    outcomes[1] = lambda stage: shutil.rmtree(stage.path, ignore_errors=True)
    assert run_stages(config, []) == 1
    assert read_result(RunDirectory(config.paths.run_dir).result).reason == "stage 1: ended with exit code 0"


def test_a_job_that_a_cluster_restarts_goes_on(config, fake_stages, monkeypatch):
    outcomes, begun = fake_stages
    outcomes[1] = lambda stage: finish(stage, "finish", {})
    outcomes[2] = lambda stage: finish(stage, "interrupt")
    assert run_stages(config, ["task=t"]) == 1
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    outcomes[2] = lambda stage: finish(stage, "finish", {"test/accuracy": 1.0})
    assert run_stages(config, ["task=t"]) == 0
    assert begun == [1, 2, 2]


def test_another_rank_goes_by_its_own_process(config, fake_stages, monkeypatch):
    outcomes, _ = fake_stages
    monkeypatch.setattr(stages, "is_first_process", lambda: False)
    monkeypatch.setattr(stages, "_complete", lambda *arguments: None)
    outcomes[1] = outcomes[2] = lambda stage: None
    assert run_stages(config, []) == 0
