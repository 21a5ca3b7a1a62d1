"""A run of CLIP-LoRA or MMA is used without its data: the sentences about its classes are in its checkpoint."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tiny_clip import register

from launch.compose import compose_config
from launch.stored import stored_config
from modes import encode, predict, train
from modes import test as test_mode
from modes.image_codes import open_trained
from records.result import read_result
from records.run_directory import RunDirectory

METHODS = {"clip_lora": [], "mma": ["task.first_layer=3", "task.bottleneck=4"]}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=METHODS)
def run(request, tmp_path, monkeypatch):
    """Train for one epoch on two digits of each class."""
    register(monkeypatch)
    overrides = [
        f"task={request.param}", *METHODS[request.param], "model.architecture=tiny-clip", "model.pretrained=false",
        "model.weights=null", "model.image_size=16", "data.image_size=16", "data.shots=2", "data.validation=none",
        "trainer=cpu", "trainer.max_epochs=1", "callbacks.progress=null", "metric.bootstrap=0",
    ]  # fmt: skip
    config = compose_config([*overrides, f"paths.run_dir='{tmp_path}/run'"])
    assert train.run(config, overrides) == 0
    return RunDirectory(tmp_path / "run")


def act(mode, run, *overrides):
    config, problems = stored_config(
        run, (f"mode={mode.__name__.rpartition('.')[2]}", "callbacks.progress=null", *overrides)
    )
    assert config is not None, problems
    assert mode.run(config, list(overrides)) == 0


def test_a_run_predicts_encodes_and_is_tested_again(run, tmp_path):
    Image.fromarray(np.full((16, 16, 3), 90, dtype=np.uint8)).save(tmp_path / "grey.png")
    act(predict, run, f"image='{tmp_path}/grey.png'")
    act(predict, run, "index=3")
    act(encode, run, f"images='{tmp_path}/grey.png'", "features=true", "name=grey")
    assert len(list(run.path.glob("predictions/*/prediction.json"))) == 2
    assert np.load(run.codes_folder / "grey" / "features.npy").shape == (1, 16)
    act(test_mode, run)
    (again,) = run.path.glob("evaluations/*/result.json")
    assert read_result(again).metrics["test/accuracy"] == read_result(run.result).metrics["test/accuracy"]


def test_it_sees_the_same_with_the_stored_sentences_as_with_those_of_its_data(run):
    config, _ = stored_config(run, ("mode=predict", "index=0"))
    settings = OmegaConf.to_container(config, resolve=True)
    image = {"image": torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    without = open_trained(settings, needs_data=False)
    assert without.data is None
    with_data = open_trained(settings)
    with torch.no_grad():
        found = without.task(image)["logits"]
        with_data.task.set_sentences(with_data.data.class_sentences)
        assert torch.equal(found, with_data.task(image)["logits"])
    stored = torch.load(without.checkpoint, weights_only=True)["class_sentences"]
    assert stored[7] == ['a photo of the number: "7".']
