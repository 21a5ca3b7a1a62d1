"""The YAMLs of data sets of image files: every setting is said, protocols hold the published sizes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from file_material import write_digits
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from datamodules.files.image_file_data import ImageFileData
from launch.groups import CONF as CONF_FOLDER

CONF = CONF_FOLDER / "data"
GENERAL = {
    "retrieval_lists": ["retrieval"],
    "table": ["retrieval"],
    "folder": ["retrieval"],
    "table_classification": ["classification", "single_label"],
    "folder_classification": ["classification", "single_label"],
}
PROTOCOLS = {
    "imagenet100": ("single_label", 1000, 13000, 5000, 128503, 100),
    "nuswide_21": ("multi_label", 5000, 10500, 2100, 193734, 21),
    "nuswide_21_m": ("multi_label", 5000, 10500, 2100, None, 21),
    "nuswide_81_m": ("multi_label", 5000, 10000, 5000, 168692, 81),
    "coco": ("multi_label", 5000, 10000, 5000, 117218, 80),
    "mirflickr": ("multi_label", "all", 4000, 1000, 20000, 38),
    "voc2012": ("multi_label", "all", 4000, 1000, 6540, 20),
}
METADATA = {"_target_", "name", "provides", "map_cut"}
NOT_FOR_ALL = {"views", "view_augment", "label_separator", "label_columns"}


def settings_of(name: str, **changed: Any) -> dict[str, Any]:
    own = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    inherited = [OmegaConf.load(CONF / f"{base}.yaml") for base in own.pop("defaults", []) if base != "_self_"]
    around = {
        "seed": 0,
        "paths": {"data_dir": "data", "run_dir": None},
        "rule": {"sampler": None},
        "trainer": {"max_epochs": 1},
    }
    whole = OmegaConf.merge(around, {"data": OmegaConf.merge(*inherited, own, changed)})
    settings = OmegaConf.to_container(whole, resolve=True)
    assert isinstance(settings, dict)
    return settings["data"]


def parameters_of(target: type) -> set[str]:
    found = set()
    for base in target.__mro__:
        if "__init__" in base.__dict__ and base.__module__.startswith("datamodules"):
            assert get_type_hints(base.__init__) or base.__init__.__annotations__ == {}
            parameters = inspect.signature(base.__init__).parameters.values()
            found |= {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return found


@pytest.mark.parametrize("name", [*GENERAL, *PROTOCOLS])
def test_a_yaml_says_every_setting_and_no_other(name: str) -> None:
    settings = settings_of(name)
    target = get_class(settings["_target_"])
    given = set(settings) - METADATA
    assert given <= parameters_of(target)
    assert parameters_of(target) - given <= NOT_FOR_ALL
    assert settings["name"] == name


@pytest.mark.parametrize("name", GENERAL)
def test_general_data_hold_a_validation_part_out(name: str) -> None:
    settings = settings_of(name)
    assert settings["provides"] == GENERAL[name]
    assert settings["val_fraction"] == 0.1
    assert ("map_cut" in settings) == ("retrieval" in GENERAL[name])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_holds_the_published_sizes_and_cut(name: str) -> None:
    kind, cut, train, query, database, classes = PROTOCOLS[name]
    settings = settings_of(name)
    assert settings["provides"] == ["retrieval", kind]
    assert settings["labels"] == kind.split("_")[0]
    assert settings["map_cut"] == cut
    assert settings["val_fraction"] == 0
    assert settings["expected_sizes"] == {"train": train, "query": query, "database": database, "classes": classes}
    assert settings["protocol"] == name


@pytest.mark.parametrize("name", ["folder", "folder_classification"])
def test_the_settings_build_the_data(name: str, tmp_path: Path) -> None:
    write_digits(tmp_path, 10)
    settings = settings_of(name, root=str(tmp_path), image_size=16)
    target = get_class(settings["_target_"])
    arguments = {key: value for key, value in settings.items() if key in parameters_of(target)}
    data = target(**{**arguments, "split_dir": None, "num_workers": 0, "batch_size": 8})
    assert isinstance(data, ImageFileData)
    assert data.sizes["train"] == 22
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 3, 16, 16)
