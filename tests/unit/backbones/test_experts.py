"""Networks of several experts: what is shared, what is not, their sizes, depths and errors."""

import pytest
import torch
import torch.nn.functional as F

from lit_modules.backbones.backbone import build_backbone
from records.errors import UserError


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ["tiny", "cifar_resnet20"])
def test_three_whole_experts_are_a_network_and_two_more_of_its_later_stages(architecture):
    single = build_backbone("own", architecture, False)
    several = build_backbone("own", architecture, False, experts=3)
    stem = sum(
        p.numel() for n, p in single.network.named_parameters() if n.startswith(("conv1", "bn1", "layer1", "stage1"))
    )
    assert several.num_features == 3 * single.num_features
    assert parameters(several) == 3 * parameters(single) - 2 * stem


@pytest.mark.parametrize("architecture", ["tiny", "cifar_resnet20"])
def test_an_expert_of_the_same_weights_is_the_single_network(architecture):
    single = build_backbone("own", architecture, False).eval()
    several = build_backbone("own", architecture, False, experts=2).eval()
    shared = [value for name, value in single.network.state_dict().items() if "stage1" in name or _is_stem(name)]
    own = [value for name, value in single.network.state_dict().items() if not ("stage1" in name or _is_stem(name))]
    names = list(several.network.state_dict())
    stem = [name for name in names if name.startswith("stem")]
    first = [name for name in names if name.startswith("branches.0")]
    pairs = [*zip(stem, shared, strict=True), *zip(first, own, strict=True)]
    several.network.load_state_dict(dict(pairs), strict=False)
    images = torch.rand(3, 3, 32, 32)
    features = several(images)
    torch.testing.assert_close(features[:, : single.num_features], single(images))
    assert not torch.allclose(features[:, single.num_features :], single(images))


def _is_stem(name):
    return name.startswith(("conv1", "bn1", "layer1"))


def test_narrow_stages_have_three_quarters_of_the_channels():
    backbone = build_backbone("own", "cifar_resnet32", False, experts=3, reduce_dimension=True)
    assert backbone.num_features == 3 * 48
    widths = {m.out_channels for m in backbone.network.branches.modules() if isinstance(m, torch.nn.Conv2d)}
    assert widths == {24, 48}
    single = build_backbone("own", "cifar_resnet32", False)
    assert parameters(backbone) < 2 * parameters(single)


@pytest.mark.parametrize(("architecture", "deepest"), [("tiny", 2), ("cifar_resnet20", 9)])
def test_the_experts_layers_of_one_depth_are_one_group(architecture, deepest):
    single = build_backbone("own", architecture, False).depth_groups()
    several = build_backbone("own", architecture, False, experts=3).depth_groups()
    assert sorted(set(several.values())) == sorted(set(single.values())) == list(range(deepest + 1))
    for name, depth in several.items():
        if ".branches.1." in name:
            assert several[name.replace(".branches.1.", ".branches.2.")] == depth


def test_every_parameter_of_every_expert_gets_a_gradient():
    backbone = build_backbone("own", "cifar_resnet20", False, experts=2, reduce_dimension=True)
    F.mse_loss(backbone(torch.rand(4, 3, 32, 32)), torch.zeros(4, 96)).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"experts": 0}, ["model.experts=0", "from 1 on"]),
        ({"experts": 1.5}, ["model.experts=1.5"]),
        ({"reduce_dimension": True}, ["model.reduce_dimension=true", "model.experts=3"]),
        ({"expert": 2}, ["model.expert=2", "choose width, experts, reduce_dimension"]),
    ],
)
def test_bad_options_are_refused(options, parts):
    with pytest.raises(UserError) as error:
        build_backbone("own", "tiny", False, **options)
    for part in parts:
        assert part in str(error.value)
