"""The allow-list: what a configuration may build."""

import pytest

from launch.targets import check_target_names, problem_with


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load", "pickle.Unpickler",
     "torch._dynamo.Config", "lit_modules", "", None, 3, "lit_modules.backbones.backbone.something_else"],
)  # fmt: skip
def test_refused(target):
    assert problem_with(target)


@pytest.mark.parametrize(
    "target",
    ["torch.optim.AdamW", "lightning.pytorch.Trainer", "lit_modules.hashing.greedyhash.GreedyHash",
     "lit_modules.backbones.backbone.build_backbone", "torchvision.transforms.v2.RandAugment"],
)  # fmt: skip
def test_allowed(target):
    assert problem_with(target) == ""


def test_targets_are_found_at_any_depth():
    config = {"a": {"_target_": "torch.nn.Linear", "b": [{"c": {"_target_": "os.system"}}]}}
    (problem,) = check_target_names(config)
    assert problem.key == "a.b[0].c._target_"
    assert "os.system" in problem.message
