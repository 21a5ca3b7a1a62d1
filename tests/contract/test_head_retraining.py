"""Training a head alone: cached features give what the images themselves give, and nothing else is trained."""

import pytest
import torch
from omegaconf import OmegaConf

from launch.check import check_overrides
from launch.compose import compose_config
from modes import build, train
from modes.cached_features import cached_features, caches_features
from records.errors import UserError
from records.result import read_result


def run(directory, *overrides):
    shared = ["task=classify", "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    overrides = [*shared, f"paths.run_dir='{directory}'", *overrides]
    assert check_overrides(overrides) == []
    assert train.run(compose_config(overrides), overrides) == 0
    return read_result(directory / "result.json")


def weights(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_cached_features_train_the_same_head_to_the_last_bit(tmp_path):
    run(tmp_path / "start")
    frozen = [f"init_from={tmp_path / 'start'}", "freeze=backbone"]
    plain = run(tmp_path / "plain", *frozen)
    cached = run(tmp_path / "cached", *frozen, "cache_features=true")
    untrained = run(tmp_path / "untrained", f"init_from={tmp_path / 'start'}", "freeze=all")
    assert cached.metrics == plain.metrics
    assert cached.metrics["test/map@all"] != untrained.metrics["test/map@all"]
    start, end, same = (weights(tmp_path / name) for name in ("start", "cached", "plain"))
    for name, tensor in end.items():
        assert torch.equal(tensor, same[name]), name
        assert torch.equal(tensor, start[name]) == name.startswith("backbone."), name


def test_features_of_a_backbone_that_is_trained_are_not_cached():
    settings = {"freeze": None, "init_from": None, "cache_features": True, "task": {}}
    with pytest.raises(UserError, match="freeze=backbone"):
        caches_features(settings)
    assert not caches_features({**settings, "cache_features": None})
    assert caches_features({**settings, "freeze": "backbone"})


def test_nothing_is_pasted_into_features(tmp_path):
    pasted = ["task=ce", "data=digits_lt", "data.foreground=balanced", "task.cutmix_alpha=1", "freeze=backbone"]
    overrides = [*pasted, "trainer.accelerator=cpu", f"paths.run_dir='{tmp_path}'"]
    with pytest.raises(UserError, match=r"data\.foreground=balanced.*cache_features=false"):
        build_and_cache(overrides)


def build_and_cache(overrides):
    settings = OmegaConf.to_container(compose_config(overrides), resolve=True)
    backbone = build.build_backbone(settings)
    data = build.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data)
    return cached_features(task, data, build.build_trainer(settings, data))
