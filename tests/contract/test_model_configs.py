"""The YAML files of conf/model: each is a backbone that builds."""

from pathlib import Path

import pytest
import torch
import yaml

from lit_modules.backbones.backbone import Backbone, build_backbone

FOLDER = Path(__file__).parents[2] / "conf" / "model"
FILES = sorted(FOLDER.glob("*.yaml"))
EXPECTED = {
    "alexnet": 4096,
    "beit2": 768,
    "cifar_resnet20": 64,
    "cifar_resnet32": 64,
    "cifar_resnet44": 64,
    "cifar_resnet56": 64,
    "resnet50": 2048,
    "resnext50": 2048,
    "swin_b": 1024,
    "tiny": 128,
    "vgg16": 4096,
    "vit_b16": 768,
}
METADATA = ("defaults", "_target_", "suggested")


def test_every_backbone_of_the_first_pillars_has_its_file():
    assert {path.stem for path in FILES} >= set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_explains_itself_and_names_the_factory(path):
    text = path.read_text(encoding="utf-8")
    first, second, third = text.splitlines()[:3]
    assert first.startswith("# ")
    assert second.startswith("# ")
    assert not third.startswith("#")
    content = yaml.safe_load(text)
    assert content["name"] == path.stem
    assert content["_target_"] == "lit_modules.backbones.backbone.build_backbone"
    suggested = {key: float(value) for key, value in content["suggested"].items()}
    assert set(suggested) == {"epochs", "lr", "weight_decay"}
    assert min(suggested.values()) > 0
    assert isinstance(content["suggested"]["epochs"], int)
    assert isinstance(content["suggested"]["lr"], float)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_builds_its_backbone_at_the_images_size(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if content["source"] == "open_clip":
        pytest.importorskip("open_clip")
    arguments = {key: value for key, value in content.items() if key not in METADATA}
    if arguments["image_size"] == "${data.image_size}":
        arguments["image_size"] = 32
    # Weightless tensors: all twelve are built in the time of one.
    with torch.device("meta"):
        backbone = build_backbone(**(arguments | {"pretrained": False}))
        size = backbone.image_size
        features = backbone(torch.empty(2, 3, size, size, dtype=torch.uint8))
    assert isinstance(backbone, Backbone)
    assert backbone.name == path.stem
    assert size == arguments["image_size"]
    assert features.shape == (2, backbone.num_features)
    assert backbone.num_features == EXPECTED.get(path.stem, backbone.num_features)
