"""Later actions on a run: what may change, what moves, what is refused."""

import pytest
from omegaconf import OmegaConf

from launch.compose import compose_config
from launch.stored import stored_config
from records.errors import UserError
from records.result import RunRecord
from records.run_directory import RunDirectory, open_run


@pytest.fixture
def run(tmp_path):
    """Store a configuration as a run does, and move its directory afterwards."""
    directory = tmp_path / "first place"
    directory.mkdir()
    config = compose_config(["task.bits=16", f"paths.run_dir='{directory}'", f"paths.data_dir='{tmp_path}/data'"])
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), directory / "config.yaml")
    names = {"task": "greedyhash", "model": "tiny", "data": "digits", "mode": "train", "seed": 0}
    RunRecord.start(RunDirectory(directory), **names, overrides=["task.bits=16"], command="a", resume_command="b")
    moved = tmp_path / "tiny"
    directory.rename(moved)
    return open_run(moved)


def test_stored_values_hold_and_typed_values_win(run):
    config, problems = stored_config(run, ("mode=train", f"run='{run.path}'", "trainer.max_epochs=9"))
    assert problems == []
    assert (config.task.bits, config.trainer.max_epochs) == (16, 9)


def test_a_key_that_says_nothing_any_more_is_left_out_of_an_older_run(run):
    config = OmegaConf.load(run.config)
    config.task.transductive = False
    OmegaConf.save(config, run.config)
    config, problems = stored_config(run, ("mode=test",))
    assert problems == []
    assert "transductive" not in config.task


def test_paths_follow_a_moved_run_and_words_do_not(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    config, _ = stored_config(open_run("tiny"), ("mode=test", "run=tiny"))
    assert config.callbacks.best.directory == f"{run.path}/checkpoints"
    assert config.model.name == "tiny"
    assert config.run == str(run.path)


def test_data_dir_counts_only_where_the_stored_folder_is_gone(run, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "elsewhere"))
    assert stored_config(run, ("mode=test",))[0].paths.data_dir == str(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    assert stored_config(run, ("mode=test",))[0].paths.data_dir == str(tmp_path / "data")


@pytest.mark.parametrize("override", ["task=greedyhash", "model=tiny", "optim=sgd", "trainer=cpu", "experiment=null"])
def test_groups_that_a_resumed_run_keeps(run, override):
    config, problems = stored_config(run, ("mode=train", override))
    assert config is None
    assert problems[0].key == override.split("=")[0]


def test_another_data_set_brings_its_own_metric(run):
    config, problems = stored_config(run, ("mode=test", "data=cifar10_retrieval"))
    assert problems == []
    assert config.data.name == "cifar10_retrieval"
    assert config.task.monitor == "map@all"
    assert config.metric.bits == 16


def test_all_problems_at_once(run):
    config, problems = stored_config(run, ("mode=test", "metric.tie=stable", "sead=1"))
    assert config is None
    assert [problem.key for problem in problems] == ["metric.tie", "sead"]


def test_a_stored_configuration_reads_no_environment(run):
    text = run.config.read_text().replace("seed: 0", "seed: ${oc.env:HOME}", 1)
    run.config.write_text(text)
    with pytest.raises(UserError, match="plain values"):
        stored_config(run, ("mode=test",))


def test_how_much_is_said_is_for_the_action_at_hand(run):
    stored = OmegaConf.load(run.config)
    for kept in (True, None):
        stored.quiet = kept
        if kept is None:
            del stored["quiet"]
        OmegaConf.save(stored, run.config)
        config, _ = stored_config(run, ("mode=test", "run=x"))
        assert config.quiet is False
        config, problems = stored_config(run, ("mode=test", "run=x", "quiet=true"))
        assert problems == []
        assert config.quiet is True
