"""Our own networks and torchvision's: shapes, parameter counts, gradient flow, depths, errors."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits

from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.cifar_resnet import CifarResNet, PadShortcut
from records.errors import UserError


def cifar_resnet_parameters(depth: int) -> int:
    """Count by the paper: widths 16, 32, 64, two 3 x 3 convolutions a block, no weights in shortcuts."""
    blocks = (depth - 2) // 6
    total = 3 * 16 * 9 + 2 * 16
    width_in = 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += width_in * width * 9 + 2 * width + width * width * 9 + 2 * width
            width_in = width
    return total


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_papers_parameters(depth, millions):
    backbone = build_backbone("own", f"cifar_resnet{depth}", False)
    count = sum(p.numel() for p in backbone.parameters())
    assert count == cifar_resnet_parameters(depth)
    assert (count + 650) / 1e6 == pytest.approx(millions, abs=0.006)  # the paper counts the 10-class classifier


@pytest.mark.parametrize(("architecture", "features"), [("tiny", 128), ("cifar_resnet20", 64)])
@pytest.mark.parametrize("size", [32, 28, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_own_networks_map_images_to_features_and_reach_every_parameter(architecture, features, size, channels_last):
    backbone = build_backbone("own", architecture, False, image_size=size, channels_last=channels_last)
    out = backbone(torch.rand(4, 3, size, size))
    assert out.shape == (4, features) == (4, backbone.num_features)
    out.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_pad_shortcut_subsamples_and_pads_evenly_without_parameters():
    x = torch.rand(2, 16, 7, 7)
    shortcut = PadShortcut(16, 32)
    y = shortcut(x)
    assert not list(shortcut.parameters())
    assert y.shape == (2, 32, 4, 4)
    for channel in range(32):
        for row in range(4):
            for column in range(4):
                expected = x[:, channel - 8, 2 * row, 2 * column] if 8 <= channel < 24 else torch.zeros(2)
                assert torch.equal(y[:, channel, row, column], expected)


def test_cifar_resnet_forward_equals_a_plain_walk_through_its_layers():
    network = CifarResNet(3).eval()
    x = torch.rand(2, 3, 32, 32)
    y = F.relu(network.bn1(network.conv1(x)))
    for stage in (network.layer1, network.layer2, network.layer3):
        for block in stage:
            short = y
            if block.conv1.stride == (2, 2):
                short = y[:, :, ::2, ::2]
                zeros = torch.zeros(2, short.shape[1] // 2, *short.shape[2:])
                short = torch.cat([zeros, short, zeros], dim=1)
            y = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y))))) + short)
    assert torch.allclose(network(x), y.mean(dim=(2, 3)), atol=1e-6)


@pytest.mark.slow
def test_tiny_stays_tiny_and_learns_the_digits():
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=16)
    images, labels = images.expand(-1, 3, -1, -1), torch.tensor(digits.target)
    torch.manual_seed(0)
    backbone = build_backbone("own", "tiny", False, channels_last=True)
    assert sum(p.numel() for p in backbone.parameters()) < 300_000
    model = torch.nn.Sequential(backbone, torch.nn.Linear(backbone.num_features, 10))
    order = torch.randperm(len(images))
    train, test = order[:1437], order[1437:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10 * 23)
    for _ in range(10):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    assert accuracy > 0.98


def test_depths_of_a_cifar_resnet_rise_block_by_block():
    depths = build_backbone("own", "cifar_resnet20", False).depth_groups()
    assert depths["network.conv1.weight"] == depths["network.bn1.bias"] == 0
    assert depths["network.layer1.0.conv1.weight"] == depths["network.layer1.0.bn2.weight"] == 1
    assert depths["network.layer2.0.conv2.weight"] == 4
    assert depths["network.layer3.2.conv2.weight"] == 9 == max(depths.values())


def test_depths_of_tiny_are_its_stages():
    depths = build_backbone("own", "tiny", False).depth_groups()
    assert {name: depth for name, depth in depths.items() if name.endswith(".0.weight")} == {
        "network.stage1.0.weight": 0,
        "network.stage2.0.weight": 1,
        "network.stage3.0.weight": 2,
    }


def test_alexnet_gives_the_relu_after_its_second_fully_connected_layer():
    backbone = build_backbone("torchvision", "alexnet", False, image_size=64).eval()
    assert not backbone.network.classifier[-1].training
    whole = torchvision.models.alexnet(weights=None).eval()
    whole.load_state_dict(backbone.network.state_dict(), strict=False)
    seen = {}
    whole.classifier[6].register_forward_hook(lambda module, inputs, output: seen.update(features=inputs[0]))
    images = torch.rand(2, 3, 64, 64)
    whole(backbone.normalise(images))
    features = backbone(images)
    assert features.shape == (2, 4096)
    assert (features >= 0).all()
    assert torch.allclose(features, seen["features"], atol=1e-6)
    depths = backbone.depth_groups()
    assert sorted(set(depths.values())) == list(range(7))  # five convolutions, two fully connected layers
    assert depths["network.classifier.4.weight"] == 6


def test_torchvision_resnet50_gives_2048_features():
    backbone = build_backbone("torchvision", "resnet50", False, image_size=32)
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, 2048)
    assert max(backbone.depth_groups().values()) == 16  # the stem and 3 + 4 + 6 + 3 blocks


@pytest.mark.slow
def test_vgg16_gives_the_relu_after_its_second_fully_connected_layer():
    backbone = build_backbone("torchvision", "vgg16", False, image_size=32).eval()
    features = backbone(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 4096)
    assert (features >= 0).all()
    assert [type(m).__name__ for m in backbone.network.classifier] == [
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
        "ReLU",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "tim", "architecture": "x"}, ["model.source='tim'", "own, timm, torchvision"]),
        (
            {"source": "own", "architecture": "cifar_resnet31"},
            ["cifar_resnet31", "did you mean cifar_resnet"],
        ),
        ({"source": "own", "architecture": "tiny", "widht": 3}, ["model.widht=3", "choose width"]),
        ({"source": "own", "architecture": "tiny", "width": 0}, ["model.width=0"]),
        ({"source": "own", "architecture": "tiny", "image_size": 3}, ["model.image_size=3", "at least 4"]),
        ({"source": "own", "architecture": "tiny", "image_size": "big"}, ["model.image_size='big'"]),
        ({"source": "own", "architecture": "tiny", "mean": [0.5, 0.5]}, ["model.mean=[0.5, 0.5]", "three"]),
        ({"source": "own", "architecture": "tiny", "std": [1, 1, 0]}, ["model.std=[1, 1, 0]", "above 0"]),
        ({"source": "torchvision", "architecture": "alexnte"}, ["alexnte", "did you mean alexnet"]),
        (
            {"source": "torchvision", "architecture": "alexnet", "image_size": 32},
            ["63", "model.image_size=224"],
        ),
        (
            {"source": "torchvision", "architecture": "alexnet", "weights": "V9"},
            ["model.weights=V9", "IMAGENET1K_V1"],
        ),
        (
            {"source": "torchvision", "architecture": "vgg16", "weights": "IMAGENET1K_FEATURES"},
            ["model.weights=IMAGENET1K_FEATURES", "IMAGENET1K_V1"],
        ),
        ({"source": "torchvision", "architecture": "alexnet", "depth": 3}, ["alexnet", "depth=3"]),
    ],
)
def test_wrong_requests_name_key_value_and_choices(arguments, words):
    with pytest.raises(UserError) as caught:
        build_backbone(pretrained=False, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_smallest_alexnet_image_is_what_its_pooling_takes():
    backbone = build_backbone("torchvision", "alexnet", False, image_size=63).eval()
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 63, 63)).shape == (1, 4096)
        with pytest.raises(RuntimeError):
            backbone(torch.rand(1, 3, 62, 62))
