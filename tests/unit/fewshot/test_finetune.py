"""Fine-tuning: the loss against a slow loop, what is trained and what stays, mixup and CutMix."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.blending.labels import OWN_SHARE, PARTNER_LABEL
from lit_modules.fewshot.finetune import FineTune
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization, parameter_groups
from lit_modules.schedules import Constant
from records.errors import UserError
from records.notices import RunWarning


def task(counts=(4, 4, 4), layer_decay=None, architecture="tiny", **settings):
    torch.manual_seed(0)
    labels = LabelSpace(len(counts), tuple("abcdefgh")[: len(counts)], counts, False, sum(counts))
    optimization = Optimization(
        partial(torch.optim.AdamW), Constant(), lr=0.1, weight_decay=0.05, layer_decay=layer_decay
    )
    options = {"width": 4} if architecture == "tiny" else {}
    backbone = build_backbone("own" if options else "timm", architecture, False, image_size=None, **options)
    metric = ClassRecognition(bootstrap=0)
    return FineTune(backbone=backbone, labels=labels, optimization=optimization, metric=metric, **settings)


def slow_loss(rows, labels, smoothing):
    """The cross-entropy with the target (1 - s) at the label and s / C everywhere."""
    losses = []
    for row, label in zip(rows, labels, strict=True):
        total = sum(math.exp(value) for value in row)
        log_probability = [value - math.log(total) for value in row]
        target = [smoothing / len(row) + (1 - smoothing) * (place == label) for place in range(len(row))]
        losses.append(-sum(t * p for t, p in zip(target, log_probability, strict=True)))
    return losses


def test_the_loss_is_that_of_a_slow_loop_by_value_and_gradient():
    module = task(label_smoothing=0.2)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels, partners = [0, 2, 1, 1, 0], [1, 2, 0, 2, 0]
    batch = {"label": torch.tensor(labels)}
    plain = module.loss({"logits": logits}, batch)["loss"]
    assert float(plain) == pytest.approx(sum(slow_loss(logits.tolist(), labels, 0.2)) / 5)
    batch |= {PARTNER_LABEL: torch.tensor(partners), OWN_SHARE: torch.full((5,), 0.3)}
    blended = module.loss({"logits": logits}, batch)["loss"]
    own, other = (sum(slow_loss(logits.tolist(), one, 0.2)) / 5 for one in (labels, partners))
    assert float(blended) == pytest.approx(0.3 * own + 0.7 * other, abs=1e-7)
    (gradient,) = torch.autograd.grad(plain, logits)
    step = 1e-6
    for row, column in ((0, 0), (3, 2)):
        rows = logits.tolist()
        values = []
        for sign in (1, -1):
            rows[row][column] += sign * step
            values.append(sum(slow_loss(rows, labels, 0.2)) / 5)
            rows[row][column] -= sign * step
        assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-8)


def trained(module):
    return {name for name, one in module.named_parameters() if one.requires_grad}


def norms(module):
    return {name: one for name, one in module.backbone.named_modules() if isinstance(one, nn.BatchNorm2d)}


def test_the_head_alone_the_last_blocks_or_all():
    head = {"classifier.weight", "classifier.bias"}
    assert trained(task(trainable="head")) == head
    everything = trained(task(trainable="all"))
    last = trained(task(trainable="last_blocks", blocks=1))
    assert head < last < trained(task(trainable="last_blocks", blocks=2)) < everything
    assert {name.split(".")[2] for name in last - head} == {"stage3"}
    assert trained(task(trainable="last_blocks", blocks=3)) == everything
    with pytest.raises(UserError, match=r"tiny has 3 groups of depth.*choose 1 to 3"):
        task(trainable="last_blocks", blocks=4)


def test_frozen_parts_keep_their_statistics():
    module = task(trainable="last_blocks", blocks=1).train()
    before = {name: one.running_mean.clone() for name, one in norms(module).items()}
    module({"image": torch.rand(8, 3, 16, 16)})
    moved = {name for name, one in norms(module).items() if not torch.equal(one.running_mean, before[name])}
    assert moved == {"network.stage3.1"}
    assert not any(one.training for one in copy.deepcopy(module).eval().modules())


@pytest.mark.parametrize(("choice", "expected"), [("none", 0), ("last", 1), ("all", 3)])
def test_statistics_adapt_on_a_frozen_backbone(choice, expected):
    module = task(trainable="head", adapt_statistics=choice).train()
    before = copy.deepcopy(module.backbone.state_dict())
    module({"image": torch.rand(8, 3, 16, 16)})
    moved = {name for name, tensor in module.backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert len({name.rpartition(".")[0] for name in moved}) == expected
    assert not any(name.endswith(("weight", "bias")) for name in moved)
    if choice == "last":
        assert "network.stage3.1.running_mean" in moved


def test_combinations_without_meaning_are_refused():
    with pytest.raises(UserError, match=r"task\.trainable=heads is no choice"):
        task(trainable="heads")
    with pytest.raises(UserError, match="adapt anyway"):
        task(trainable="all", adapt_statistics="last")
    with pytest.raises(UserError, match="has no batch norm"):
        task(trainable="head", adapt_statistics="last", architecture="test_vit")
    with pytest.raises(ValueError, match=r"label_smoothing is 1"):
        task(label_smoothing=1)
    with pytest.raises(ValueError, match=r"cutmix_alpha is -1"):
        task(cutmix_alpha=-1)
    with pytest.warns(RunWarning, match="1 of 3 classes have no training image, the first is 'b'"):
        task(counts=(4, 0, 4))


def test_rates_fall_with_depth():
    module = task(layer_decay=0.5)
    groups = parameter_groups(module, module.backbone, module.optimization)
    rates = {id(one): group["lr"] for group in groups for one in group["params"]}
    found = {
        name.split(".")[2] if "stage" in name else "head": rates[id(one)] for name, one in module.named_parameters()
    }
    assert found == pytest.approx({"head": 0.1, "stage3": 0.05, "stage2": 0.025, "stage1": 0.0125})
