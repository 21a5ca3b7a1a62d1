"""Starting from other weights: what is loaded, under which names, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.hashing.classify import Classify
from lit_modules.hashing.dpsh import DPSH
from lit_modules.hashing.orthohash import OrthoHash
from lit_modules.initial_weights import start_from
from modes.initial import apply_initial_weights, checkpoint_of_source, frozen_part
from records.errors import UserError
from records.notices import RunWarning
from records.run_directory import last_stage

SETTINGS = {"init_from": None, "init_parts": "all", "init_keys": {}, "freeze": None, "task": {}}


def task_of(num_classes=3, architecture="tiny", bits=4, method=Classify, options=None, **settings):
    labels = LabelSpace(num_classes, tuple("abcdefgh"[:num_classes]), (5,) * num_classes, False, 5 * num_classes)
    backbone = build_backbone("own", architecture, False, image_size=32, **(options or {}))
    shared = {"backbone": backbone, "labels": labels, "optimization": SimpleNamespace(), "metric": None}
    return method(bits=bits, **settings, **shared)


def saved(state, path):
    torch.save({"state_dict": state}, path)
    return path


def test_a_run_of_ours_is_loaded_whole(tmp_path):
    trained, fresh = task_of(), task_of()
    start_from(fresh, saved(trained.state_dict(), tmp_path / "last.ckpt"))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    assert fresh.backbone.pretrained.used
    assert "classifier.weight" in fresh.backbone.pretrained.source


def test_what_a_head_learned_in_buffers_is_loaded_too(tmp_path):
    trained, fresh = (task_of(method=OrthoHash, centres="bernoulli", seed=seed) for seed in (0, 1))
    with torch.no_grad():
        trained.batch_norm.running_mean.fill_(2.0)
    assert not torch.equal(trained.codebook.signs, fresh.codebook.signs)
    start_from(fresh, saved(trained.state_dict(), tmp_path / "last.ckpt"))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    assert "not used" not in fresh.backbone.pretrained.source


def test_memories_of_training_images_stay_new(tmp_path):
    trained, fresh = task_of(method=DPSH, gather_batch=True), task_of(method=DPSH, gather_batch=True)
    trained.bank.seen.fill_(True)
    start_from(fresh, saved(trained.state_dict(), tmp_path / "last.ckpt"))
    assert not fresh.bank.seen.any()
    assert torch.equal(fresh.hash_layer.weight, trained.hash_layer.weight)
    assert "not used: bank.values, bank.labels, bank.seen" in fresh.backbone.pretrained.source


def test_only_the_backbone_where_asked(tmp_path):
    trained, fresh = task_of(), task_of()
    head = fresh.classifier.weight.clone()
    start_from(fresh, saved(trained.state_dict(), tmp_path / "last.ckpt"), parts="backbone")
    assert torch.equal(fresh.classifier.weight, head)
    name = next(name for name, _ in trained.backbone.named_parameters())
    assert torch.equal(fresh.backbone.get_parameter(name), trained.backbone.get_parameter(name))


def test_a_head_of_another_shape_stays_new_and_is_named(tmp_path):
    trained, fresh = task_of(num_classes=3), task_of(num_classes=5)
    before = fresh.classifier.weight.clone()
    start_from(fresh, saved(trained.state_dict(), tmp_path / "last.ckpt"))
    assert torch.equal(fresh.classifier.weight, before)
    assert torch.equal(fresh.hash_layer.weight, trained.hash_layer.weight)
    assert "of another shape: classifier.weight" in fresh.backbone.pretrained.source


@pytest.mark.parametrize("wrapper", ["", "module.", "model.module."])
@pytest.mark.parametrize("classifier", ["fc", "linear", "head"])
def test_foreign_names_are_mapped(tmp_path, wrapper, classifier):
    trained, fresh = task_of(), task_of()
    network = {f"{wrapper}{name}": tensor for name, tensor in trained.backbone.network.state_dict().items()}
    network[f"{wrapper}{classifier}.weight"] = trained.classifier.weight.detach()
    network[f"{wrapper}{classifier}.bias"] = trained.classifier.bias.detach()
    start_from(fresh, saved(network, tmp_path / "foreign.pth"))
    assert torch.equal(fresh.classifier.weight, trained.classifier.weight)
    for name, tensor in trained.backbone.network.state_dict().items():
        assert torch.equal(fresh.backbone.network.state_dict()[name], tensor), name


def test_layers_of_the_backbone_that_are_called_classifier_are_its_own(tmp_path):
    fresh = task_of()
    network = nn.ModuleDict({"stem": nn.Linear(2, 2), "classifier": nn.ModuleDict({"1": nn.Linear(2, 3)})})
    fresh.backbone.network = network
    trained = {name: torch.full_like(tensor, 2.0) for name, tensor in network.state_dict().items()}
    start_from(fresh, saved({**trained, "classifier.6.weight": torch.ones(5, 3)}, tmp_path / "alexnet.pth"))
    assert all((tensor == 2).all() for tensor in network.state_dict().values())
    assert "not used: classifier.6.weight" in fresh.backbone.pretrained.source


def test_own_names_for_a_strange_checkpoint(tmp_path):
    trained, fresh = task_of(), task_of()
    strange = {f"feat.{name}": tensor for name, tensor in trained.backbone.network.state_dict().items()}
    strange["top.weight"] = trained.classifier.weight.detach()
    file = saved(strange, tmp_path / "strange.pth")
    start_from(fresh, file, keys={"feat.": "backbone.network.", "top.": "classifier."})
    assert torch.equal(fresh.classifier.weight, trained.classifier.weight)
    assert "not in the file: hash_layer.weight" in fresh.backbone.pretrained.source


@pytest.mark.parametrize("other", [{"options": {"width": 16}}, {"architecture": "cifar_resnet20"}])
def test_another_architecture_is_refused_by_name(tmp_path, other):
    file = saved(task_of(**other).state_dict(), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"init_from=.*last\.ckpt"):
        start_from(task_of(), file)


def test_a_run_directory_gives_its_best_checkpoint_else_its_last(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"init_from=.*best\.ckpt"):
        checkpoint_of_source(tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        file = tmp_path / "checkpoints" / name
        file.touch()
        assert checkpoint_of_source(tmp_path) == file
    assert checkpoint_of_source(file) == file


def test_a_run_in_stages_gives_its_last_stage(tmp_path):
    assert last_stage(tmp_path) == tmp_path
    for number in (1, 2, 10):
        (tmp_path / f"stage{number}").mkdir()
    assert last_stage(tmp_path).name == "stage10"


def test_the_task_says_what_is_frozen_after_a_start_from_trained_weights():
    task = {"freeze": "backbone"}
    assert frozen_part({**SETTINGS, "task": task}) == "none"
    assert frozen_part({**SETTINGS, "task": task, "init_from": "somewhere"}) == "backbone"
    assert frozen_part({**SETTINGS, "task": task, "init_from": "somewhere", "freeze": "none"}) == "none"
    with pytest.raises(UserError, match="none, backbone, all"):
        frozen_part({**SETTINGS, "freeze": "head"})


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics():
    task = task_of()
    with pytest.warns(RunWarning, match="random"):
        apply_initial_weights({**SETTINGS, "freeze": "backbone"}, task, data=None, is_resumed=False)
    task.train()
    before = {name: tensor.clone() for name, tensor in task.backbone.state_dict().items()}
    batch = {"image": torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), "label": torch.tensor([0, 1, 2, 0, 1, 2])}
    task.loss(task(batch), batch)["loss"].backward()
    assert task.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in task.backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.backbone.state_dict().items())


def test_features_from_a_cache_need_no_image():
    task = task_of()
    features = torch.randn(5, task.backbone.num_features)
    assert torch.equal(task({"feature": features})["h"], task.head(features)["h"])
