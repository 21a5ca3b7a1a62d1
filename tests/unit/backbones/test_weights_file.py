"""Local weight files: formats, prefixes, containers, reports, refusals."""

import datetime
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.weights_file import load_state_dict, read_state_dict
from records.errors import UserError
from records.notices import RunWarning


@pytest.fixture
def donor():
    torch.manual_seed(7)
    backbone = build_backbone("own", "cifar_resnet20", False)
    backbone(torch.rand(4, 3, 32, 32))  # the running means leave their initial values
    return backbone


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "backbone.network.", "teacher.backbone."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_under_any_wrappers_prefix(donor, tmp_path, prefix, suffix):
    state = {f"{prefix}{name}": value for name, value in donor.network.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = build_backbone("own", "cifar_resnet20", False, weights_file=str(path))
    assert same_weights(donor, loaded)
    assert loaded.pretrained.used
    assert "weights" in loaded.pretrained.source
    assert (f"prefix '{prefix}' stripped" in loaded.pretrained.source) == bool(prefix)


def test_a_checkpoint_of_the_field_loads_and_its_classifier_is_reported(donor, tmp_path):
    """Data-parallel prefix, accuracy beside the weights, a classifier, no counters, the old file format."""
    state = {
        f"module.{name}": value
        for name, value in donor.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    state |= {"module.linear.weight": torch.zeros(10, 64), "module.linear.bias": torch.zeros(10)}
    path = tmp_path / "resnet20.th"
    torch.save({"state_dict": state, "best_prec1": 91.7}, path, _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = build_backbone("own", "cifar_resnet20", "auto", weights_file=str(path))
    assert torch.equal(loaded.network.layer3[2].conv2.weight, donor.network.layer3[2].conv2.weight)
    assert torch.equal(loaded.network.bn1.running_mean, donor.network.bn1.running_mean)
    assert loaded.pretrained.requested == "auto"
    assert "95 tensors loaded" in loaded.pretrained.source
    assert "2 not used: linear.weight, linear.bias" in loaded.pretrained.source


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state_dict", "state_dict_ema"])
def test_containers_are_opened(donor, tmp_path, container):
    path = tmp_path / "weights.pth"
    torch.save({container: donor.network.state_dict(), "epoch": 3, "optimizer": {"state": {}}}, path)
    assert set(read_state_dict(path)) == set(donor.network.state_dict())


def test_averaged_weights_go_before_the_others(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"w": torch.ones(1)}}, path)
    assert read_state_dict(path)["w"].item() == 1


def test_missing_tensors_are_a_warning_of_the_run(donor, tmp_path):
    state = {name: value for name, value in donor.network.state_dict().items() if not name.startswith("layer3.2")}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.warns(RunWarning, match=r"10 missing: layer3\.2\.conv1\.weight"):
        build_backbone("own", "cifar_resnet20", False, weights_file=str(path))


def test_a_larger_networks_file_is_a_warning_of_the_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_backbone("own", "cifar_resnet32", False).network.state_dict(), path)
    with pytest.warns(RunWarning, match=r"not used: layer1\.3\.conv1\.weight"):
        build_backbone("own", "cifar_resnet20", False, weights_file=str(path))


def test_the_report_lists_every_tensor_once(donor):
    state = dict(donor.network.state_dict()) | {"head.weight": torch.zeros(1)}
    del state["conv1.weight"]
    with pytest.warns(RunWarning):
        report = load_state_dict(build_backbone("own", "cifar_resnet20", False).network, state, "here.pth")
    assert report.missing == ("conv1.weight",)
    assert report.unexpected == ("head.weight",)
    assert sorted((*report.matched, *report.missing)) == sorted(donor.network.state_dict())


def test_files_that_would_run_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "saved": datetime.date(2020, 1, 1)}, path)
    with pytest.raises(UserError, match="would run code"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"not a weight file at all")
    with pytest.raises(UserError, match=r"model\.weights_file=.*weights"):
        read_state_dict(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        build_backbone("own", "tiny", "auto", weights_file=str(tmp_path / "absent.pth"))


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3, "accuracy": 0.5}, path)
    with pytest.raises(UserError, match=r"\['accuracy', 'epoch'\]"):
        read_state_dict(path)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"stem.kernel": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"no tensor of the file fits.*stem\.kernel.*conv1\.weight"):
        build_backbone("own", "cifar_resnet20", False, weights_file=str(path))


def test_a_file_of_another_width_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_backbone("own", "cifar_resnet20", False, width=8).network.state_dict(), path)
    with pytest.raises(UserError, match=r"another shape.*conv1\.weight \(8, 3, 3, 3\), not \(16, 3, 3, 3\)"):
        build_backbone("own", "cifar_resnet20", False, weights_file=str(path))


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_timm_models_load_a_file_and_resize_their_position_tables(tmp_path, architecture):
    donor = build_backbone("timm", architecture, False, image_size=160)
    path = tmp_path / "weights.safetensors"
    state = {f"module.{name}": value for name, value in donor.network.state_dict().items()}
    safetensors.torch.save_file(state | {"module.head.weight": torch.zeros(5, 2)}, path)
    same = build_backbone("timm", architecture, False, image_size=160, weights_file=str(path))
    assert same_weights(donor, same)
    small = build_backbone("timm", architecture, False, image_size=32, weights_file=str(path))
    assert "0 missing" not in small.pretrained.source
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, small.num_features)


def test_torchvision_models_load_a_file(tmp_path):
    donor = build_backbone("torchvision", "resnet50", False)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(donor.network.state_dict() | {"fc.bias": torch.zeros(3)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = build_backbone("torchvision", "resnet50", True, weights_file=str(path))
    assert same_weights(donor, loaded)
    assert "1 not used: fc.bias" in loaded.pretrained.source
