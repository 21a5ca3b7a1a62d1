"""Whose constants a choice has: MDSH's and DFH's are the authors', the others' those of DeepHash-pytorch."""

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).resolve().parents[3] / "conf"

AUTHORS = {
    "mdsh": {
        "pair_weight": 1.0, "quantization_weight": 1e-4, "pair_from_epoch": 9, "batch_norm": True, "tanh": True,
        "init_std": 0.01,
    },
    "dfh": {"margin": 0, "mu": 1, "inter_weight": 1, "sign_weight": 1, "eta": 0.5},
}  # fmt: skip
DEEPHASH_PYTORCH = {
    "dfh": {"margin": 3, "mu": 0.1},
    "idhn": {"alpha": 0.5},
    "hashnet": {"alpha": 0.1},
    "dtsh": {"margin": 5},
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", AUTHORS)
def test_defaults_are_the_authors(task):
    settings = read(CONF / "task" / f"{task}.yaml")
    assert {key: settings[key] for key in AUTHORS[task]} == AUTHORS[task]


@pytest.mark.parametrize("task", ["idhn", "hashnet", "dtsh"])
def test_the_other_defaults_are_those_of_deephash_pytorch(task):
    settings = read(CONF / "task" / f"{task}.yaml")
    assert {key: settings[key] for key in DEEPHASH_PYTORCH[task]} == DEEPHASH_PYTORCH[task]


@pytest.mark.parametrize(
    "path", [path for task in DEEPHASH_PYTORCH for path in sorted(CONF.glob(f"experiment/hashing/{task}_*.yaml"))],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_recipes_of_deephash_pytorch_have_its_constants(path):
    assert "swuxyj/DeepHash-pytorch" in path.read_text(encoding="utf-8")
    task = read(path)["task"]
    wanted = DEEPHASH_PYTORCH[path.stem.split("_")[0]]
    assert {key: task.get(key) for key in wanted} == wanted


def test_the_authors_unsupervised_recipe_has_their_target():
    task = read(CONF / "experiment" / "hashing" / "greedyhash_unsup_cifar10_vgg16.yaml")["task"]
    assert (task["similarity"], task["dropout_as_published"]) == ("published_uncentred_cosine", True)
