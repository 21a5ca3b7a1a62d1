from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from datamodules.base import ImageDataModule
from datamodules.cifar10_retrieval import Cifar10Retrieval
from datamodules.cifar_lt import Cifar10LongTail, Cifar100LongTail, CifarRecognition
from datamodules.digits import Digits
from datamodules.digits_lt import DigitsLongTail

CONF = Path(__file__).parents[3] / "conf" / "data"
RETRIEVAL: dict[str, Any] = {"digits": Digits, "cifar10_retrieval": Cifar10Retrieval}
LONG_TAIL: dict[str, Any] = {
    "digits_lt": DigitsLongTail,
    "cifar10_lt": Cifar10LongTail,
    "cifar100_lt": Cifar100LongTail,
}
TARGETS = {**RETRIEVAL, **LONG_TAIL}
FROM_FILES = (Cifar10Retrieval, CifarRecognition)
# what compares several views of an image is no retrieval of today's
VIEWS = {"views", "view_augment"}
METADATA = {"_target_", "name", "provides", "map_cut"}


def parameters_of(target: type) -> dict[str, inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for base in (one for one in target.__mro__ if issubclass(one, ImageDataModule) and "__init__" in vars(one)):
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(name, parameter)
    return found


def settings_of(name: str, run_dir: Path) -> dict[str, Any]:
    around = {
        "seed": 5,
        "paths": {"data_dir": str(run_dir / "data"), "run_dir": str(run_dir)},
        "trainer": {"max_epochs": 7},
        "rule": {"sampler": {"kind": "balanced", "from_fraction": 0.5}},
    }
    loaded = OmegaConf.merge(around, {"data": OmegaConf.load(CONF / f"{name}.yaml")})
    resolved = OmegaConf.to_container(loaded, resolve=True)
    assert isinstance(resolved, dict)
    return resolved["data"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_yaml_says_every_setting_of_its_data_set_and_builds_it(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    target = TARGETS[name]
    assert settings["_target_"] == f"{target.__module__}.{target.__qualname__}"
    assert settings["name"] == name
    kinds = ["classification", "single_label", "long_tailed"] if name in LONG_TAIL else ["retrieval", "single_label"]
    assert settings["provides"] == kinds
    arguments = {key: value for key, value in settings.items() if key not in METADATA}
    assert set(arguments) == set(parameters_of(target)) - (VIEWS if name in RETRIEVAL else set())
    data = target(**arguments)
    assert data.seed == 5
    assert (data.sampling_rule.kind, data.sampling_rule.from_fraction, data.epochs) == ("balanced", 0.5, 7)
    assert data.has_validation == (name == "digits")
    # the digits are centred and tell left from right, so neither crop nor flip is their default
    assert (data.augmentation is None) == name.startswith("digits")


@pytest.mark.parametrize("name", TARGETS)
def test_a_yaml_starts_with_two_lines_of_comment(name: str) -> None:
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# ")
    assert lines[2].startswith("_target_: ")


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_annotations_can_be_read_and_unknown_arguments_are_refused(target: Any) -> None:
    for base in (target, ImageDataModule):
        assert get_type_hints(base.__init__)
    parameters = parameters_of(target).items()
    required = {name for name, value in parameters if value.default is inspect.Parameter.empty}
    assert required == {"image_size", "seed"} | ({"root"} if issubclass(target, FROM_FILES) else set())
    with pytest.raises(TypeError, match="bath_size"):
        target(**dict.fromkeys(required, 1), bath_size=3)


def test_the_split_of_a_run_is_written_where_the_yaml_says(tmp_path: Path) -> None:
    settings = {key: value for key, value in settings_of("digits", tmp_path).items() if key not in METADATA}
    data = Digits(**settings)
    data.setup()
    assert data.split_path == tmp_path / "splits" / "digits-stratified-fifth-seed5.json"
    assert data.split_path.is_file()
