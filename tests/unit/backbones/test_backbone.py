"""The wrapper: normalisation, number types, image sizes, depths and weight decay of timm's models."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from lit_modules.backbones.backbone import build_backbone
from records.errors import UserError

SMALL_VIT = "test_vit.r160_in1k"


def test_uint8_images_equal_the_same_images_as_floats():
    backbone = build_backbone("own", "tiny", False).eval()
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(backbone(pixels), backbone(pixels.float() / 255))


def test_images_are_normalised_channel_by_channel():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    backbone = build_backbone("own", "tiny", False, mean=mean, std=std)
    assert (backbone.mean, backbone.std) == (mean, std)
    images = torch.rand(2, 3, 4, 4)
    normalised = backbone.normalise(images)
    for channel in range(3):
        expected = (images[:, channel].numpy() - mean[channel]) / std[channel]
        assert normalised[:, channel].numpy() == pytest.approx(expected, abs=1e-6)


def test_mean_and_std_are_the_models_own_unless_given():
    cifar = build_backbone("own", "cifar_resnet20", False)
    assert cifar.mean == (0.4914, 0.4822, 0.4465)
    assert cifar.std == (0.2023, 0.1994, 0.2010)
    vit = build_backbone("timm", SMALL_VIT, False, std=[1, 1, 1])
    assert vit.mean == (0.5, 0.5, 0.5)
    assert vit.std == (1, 1, 1)


def test_mean_and_std_are_no_part_of_a_checkpoint_but_follow_the_device_and_type():
    backbone = build_backbone("own", "tiny", False)
    assert all(name.startswith("network.") for name in backbone.state_dict())
    half = backbone.to(torch.bfloat16)
    assert half(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).dtype == torch.bfloat16


def test_channels_last_reaches_the_network_and_leaves_the_features_alone():
    torch.manual_seed(0)
    plain = build_backbone("own", "cifar_resnet20", False).eval()
    strided = build_backbone("own", "cifar_resnet20", False, channels_last=True).eval()
    strided.load_state_dict(plain.state_dict())
    assert strided.network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32)
    assert strided.normalise(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain(images), strided(images), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 1, 32, 32), "(2, 1, 32, 32)"),
        (torch.zeros(3, 32, 32), "(3, 32, 32)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), "torch.int64"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(images, words):
    backbone = build_backbone("own", "tiny", False, name="quick")
    with pytest.raises(UserError) as caught:
        backbone(images)
    assert words in str(caught.value)
    assert "model=quick" in str(caught.value)


def test_a_fixed_size_network_refuses_other_sizes():
    backbone = build_backbone("timm", "beit_base_patch16_224", False, image_size=32, depth=1)
    with pytest.raises(UserError, match=r"64 x 64 pixels; it is built for 32 x 32.*model\.image_size"):
        backbone(torch.rand(1, 3, 64, 64))


def test_a_size_that_cuts_a_patch_is_refused():
    with pytest.raises(UserError, match=r"model\.image_size=40: .*model\.image_size=32 or 48"):
        build_backbone("timm", "beit_base_patch16_224", False, image_size=40, depth=1)


def test_image_size_null_is_the_models_own():
    assert build_backbone("timm", SMALL_VIT, False).image_size == 160
    assert build_backbone("timm", "test_resnet", False).image_size == 160
    assert build_backbone("own", "tiny", False).image_size == 32
    assert build_backbone("torchvision", "alexnet", False).image_size == 224


@pytest.mark.parametrize(
    ("architecture", "features", "options"),
    [
        ("beitv2_base_patch16_224.in1k_ft_in22k_in1k", 768, {"depth": 2, "drop_path_rate": 0.1}),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", 768, {"depth": 2}),
        ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", 1024, {"depths": [1, 1, 1, 1]}),
        ("resnet50.tv_in1k", 2048, {"layers": [1, 1, 1, 1]}),
    ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_timm_families_train_on_small_images(architecture, features, options, size):
    backbone = build_backbone("timm", architecture, False, image_size=size, **options)
    out = backbone(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert out.shape == (2, features) == (2, backbone.num_features)
    out.square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "features", "depth"),
    [
        ("beitv2_base_patch16_224.in1k_ft_in22k_in1k", 768, 13),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", 768, 12),
        ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", 1024, 24),
        ("resnet50.tv_in1k", 2048, 16),
    ],
)
def test_whole_timm_models_train_on_32_pixels(architecture, features, depth):
    backbone = build_backbone("timm", architecture, False, image_size=32)
    out = backbone(torch.rand(2, 3, 32, 32))
    assert out.shape == (2, features)
    out.square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
    assert max(backbone.depth_groups().values()) == depth


def test_options_reach_timm_and_null_ones_are_its_own():
    backbone = build_backbone("timm", "beit_base_patch16_224", False, image_size=32, depth=2, drop_path_rate=0.25)
    assert backbone.network.blocks[1].drop_path1.drop_prob == pytest.approx(0.25)
    plain = build_backbone("timm", "beit_base_patch16_224", False, image_size=32, depth=2, drop_path_rate=None)
    assert isinstance(plain.network.blocks[1].drop_path1, torch.nn.Identity)


def test_a_head_with_a_hidden_layer_is_counted_in_the_features():
    backbone = build_backbone("timm", "mobilenetv3_small_050", False, image_size=32).eval()
    assert backbone(torch.rand(1, 3, 32, 32)).shape == (1, backbone.num_features)
    assert backbone.num_features != backbone.network.num_features


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        ("resnet5", {}, ["resnet5", "closest names", "resnet50"]),
        ("beitv2_base_patch16_224.foo", {}, ["'foo'", "in1k_ft_in22k_in1k"]),
        ("test_vit", {"drop_pth": 0.1}, ["test_vit", "drop_pth=0.1"]),
        ("test_vit", {"num_classes": 10}, ["model.num_classes=10", "no classifier"]),
        ("test_vit", {"img_size": 10}, ["model.img_size=10", "model.image_size"]),
    ],
)
def test_wrong_timm_requests_name_value_and_choices(architecture, options, words):
    with pytest.raises(UserError) as caught:
        build_backbone("timm", architecture, False, **options)
    for word in words:
        assert word in str(caught.value)


def test_pooling_switched_off_is_refused():
    backbone = build_backbone("timm", "test_resnet", False, global_pool="")
    with pytest.raises(UserError, match="global_pool"):
        backbone(torch.rand(2, 3, 64, 64))


def test_depths_and_scales_are_timms_own():
    backbone = build_backbone("timm", SMALL_VIT, False, image_size=32)
    depths = backbone.depth_groups()
    assert set(depths) == {name for name, _ in backbone.named_parameters()}
    assert depths["network.patch_embed.proj.weight"] == depths["network.pos_embed"] == 0
    assert depths["network.blocks.0.mlp.fc1.weight"] == 1
    top = max(depths.values())
    groups = param_groups_layer_decay(backbone.network, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in backbone.named_parameters():
        assert scale[id(parameter)] == pytest.approx(0.5 ** (top - depths[name])), name


def test_timms_layer_decay_takes_the_backbone_itself():
    backbone = build_backbone("own", "cifar_resnet20", False)
    groups = param_groups_layer_decay(backbone, layer_decay=0.5, no_weight_decay_list=backbone.no_weight_decay())
    assert sorted({group["lr_scale"] for group in groups}) == [0.5**depth for depth in range(9, -1, -1)]


def test_a_network_without_timms_rule_is_grouped_in_the_order_of_its_parameters():
    network = timm.create_model("test_resnet", num_classes=0)
    backbone = build_backbone("timm", "test_resnet", False)
    backbone._group_matcher = None
    depths = backbone.depth_groups()
    order = [depths[f"network.{name}"] for name, _ in network.named_parameters()]
    assert order == sorted(order)
    assert len(set(order)) > 1


def test_names_without_weight_decay_are_the_architectures():
    vit = build_backbone("timm", SMALL_VIT, False, image_size=32)
    assert vit.no_weight_decay() >= {"network.pos_embed", "network.cls_token"}
    assert vit.no_weight_decay() <= {name for name, _ in vit.named_parameters()}
    beit = build_backbone("timm", "beit_base_patch16_224", False, image_size=32, depth=1)
    assert "network.cls_token" in beit.no_weight_decay()
    assert build_backbone("own", "tiny", False).no_weight_decay() == set()
