import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted([*(CONF / "callbacks").glob("*.yaml"), *(CONF / "logger").glob("*.yaml")])
AROUND = {
    "paths": {"run_dir": "somewhere"},
    "trainer": {"on_nonfinite": "stop"},
    "task": {"name": "greedyhash", "monitor": "map@all", "direction": "max"},
    "model": {"name": "tiny"},
    "data": {"name": "digits"},
    "seed": 0,
}


def nodes(file):
    config = OmegaConf.merge(AROUND, {"node": OmegaConf.load(file)})
    content = OmegaConf.to_container(config, resolve=True)["node"]
    return {name: node for name, node in content.items() if name != "defaults"}


def test_all_files_are_looked_at():
    assert {file.stem for file in FILES} >= {"default", "csv", "wandb", "tensorboard"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_two_comment_lines_and_targets_that_take_their_arguments(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("# ") for line in lines[:2])
    assert not lines[2].startswith("#")
    for name, node in nodes(file).items():
        module, _, target = node.pop("_target_").rpartition(".")
        inspect.signature(getattr(importlib.import_module(module), target)).bind(**node)
        assert name.isidentifier()


def test_default_callbacks_build_in_the_right_order():
    built = []
    for node in nodes(CONF / "callbacks" / "default.yaml").values():
        module, _, target = node.pop("_target_").rpartition(".")
        built.append(type(getattr(importlib.import_module(module), target)(**node)).__name__)
    assert built.index("BestCheckpoint") < built.index("LastCheckpoint")
    assert built.index("Throughput") < built.index("EpochLines")
