"""The recipes of conf/experiment: heads train on features computed once, rates fall as the authors' own do."""

import pytest
from omegaconf import OmegaConf

from launch.compose import compose_config
from launch.stages import stage_settings
from modes.cached_features import caches_features
from records.errors import UserError


def settings_of(*overrides):
    return OmegaConf.to_container(compose_config([*stage_settings(overrides), *overrides]), resolve=True)


@pytest.mark.parametrize("task", ["gml", "focal", "ldam", "lade", "feabal", "class_balanced", "remix"])
def test_the_recipe_of_heads_computes_features_once(task):
    settings = settings_of("experiment=recipe/head-20", f"task={task}", "init_from=run")
    assert caches_features(settings)
    assert settings["trainer"]["max_epochs"] == 20


def test_the_recipe_of_heads_takes_what_trains_nothing():
    typed = ["experiment=recipe/head-20", "task=logit_adjustment", "task.adjust=post_hoc", "init_from=run"]
    assert caches_features(settings_of(*typed))
    assert not caches_features(settings_of(*typed, "freeze=all"))
    with pytest.raises(UserError, match="cache_features=true: the backbone is trained"):
        caches_features(settings_of(*typed, "freeze=none"))


@pytest.mark.parametrize(("task", "epochs"), [("crt", 10), ("lws", 5)])
def test_second_stages_keep_their_epochs_and_sampling_under_the_recipe(task, epochs):
    settings = settings_of("experiment=recipe/head-20", f"task={task}", "task.stage=2", "init_from=run")
    assert caches_features(settings)
    assert settings["trainer"]["max_epochs"] == epochs
    assert settings["data"]["sampler"]["kind"] == "class_aware"


@pytest.mark.parametrize(("name", "factor"), [("sade", 0.1), ("ride", 0.01), ("bcl", 0.1)])
def test_rates_fall_at_160_and_180(name, factor):
    settings = settings_of(f"experiment=cifar100_lt/{name}")
    epochs, schedule = settings["trainer"]["max_epochs"], settings["schedule"]
    assert [round(share * epochs) for share in schedule["milestones"]] == [160, 180]
    assert schedule["factor"] == factor


def test_the_key_view_of_paco_alone_is_blurred():
    assert settings_of("experiment=cifar100_lt/paco")["data"]["view_augment"]["blur_probability"] == 0.5
    for data in ("cifar10_lt", "cifar100_lt", "digits_lt"):
        assert settings_of("task=paco", f"data={data}")["data"]["view_augment"]["blur_probability"] == 0.0
