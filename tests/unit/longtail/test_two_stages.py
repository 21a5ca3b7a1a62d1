"""cRT, LWS, tau-normalisation and MiSLAS: their formulas against slow loops, and what each stage trains."""

import math
from functools import partial

import pytest
import torch
from slow_numbers import COUNTS, LABELS, assert_equals_slow, cross_entropy, draw, log_softmax
from small_methods import at_epoch, one_step, small_batch, small_method
from torch import nn

from lit_modules.longtail.crt import ClassifierRetraining
from lit_modules.longtail.lws import LearnableWeightScaling
from lit_modules.longtail.mislas import MiSLAS, label_aware_smoothing_loss, smoothing_factors
from lit_modules.longtail.tau_norm import TauNormalisation, tau_normalised_logits
from records.errors import UserError

LOGITS = draw(len(LABELS), 4, seed=5)
LABEL = torch.tensor(LABELS)
SECOND_STAGES = [ClassifierRetraining, LearnableWeightScaling, MiSLAS]


def as_trained(module):
    """Let a module take its own first weights for those of a run."""
    module.backbone.pretrained = type(module.backbone.pretrained)(False, True, "init_from run")
    module.started_from(tuple(name for name, _ in module.named_parameters()))
    return module


def slow_factors(head, tail, shape):
    largest, rarest = max(COUNTS), min(COUNTS)
    factors = []
    for count in COUNTS:
        angle = math.pi * (count - rarest) / (2 * (largest - rarest))
        if shape == "concave":
            factors.append(tail + (head - tail) * math.sin(angle))
        elif shape == "linear":
            factors.append(tail + (head - tail) * 2 * angle / math.pi)
        else:
            factors.append(head + (head - tail) * math.sin(1.5 * math.pi + angle))
    return factors


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_labels_are_smoothed_by_a_power(power):
    found = smoothing_factors(torch.tensor(COUNTS).double(), 0.4, 0.1, "exp", power).tolist()
    largest, rarest = max(COUNTS), min(COUNTS)
    expected = [0.1 + 0.3 * math.pow((count - rarest) / (largest - rarest), power) for count in COUNTS]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["concave", "linear", "convex"])
def test_labels_are_smoothed_from_tail_to_head(shape):
    found = smoothing_factors(torch.tensor(COUNTS).double(), 0.4, 0.1, shape).tolist()
    assert found == pytest.approx(slow_factors(0.4, 0.1, shape), abs=1e-12)
    assert found[0] == pytest.approx(0.4)
    assert found[-1] == pytest.approx(0.1)


def test_equal_classes_are_all_smoothed_as_heads():
    assert smoothing_factors(torch.full((3,), 7.0), 0.4, 0.1).tolist() == pytest.approx([0.4] * 3)


def test_label_aware_smoothing_against_a_slow_loop():
    factors = [0.4, 0.3, 0.15, 0.1]

    def slow(rows):
        total = 0.0
        for row, y in zip(rows, LABELS, strict=True):
            target = [factors[y] / 4 + (1 - factors[y]) * (c == y) for c in range(4)]
            total -= sum(share * log_p for share, log_p in zip(target, log_softmax(row), strict=True))
        return total / len(LABELS)

    smoothing = torch.tensor(factors, dtype=torch.float64)
    assert_equals_slow(lambda z: label_aware_smoothing_loss(z, LABEL, smoothing), slow, LOGITS)
    assert_equals_slow(
        lambda z: label_aware_smoothing_loss(z, LABEL, torch.zeros(4, dtype=torch.float64)),
        lambda rows: cross_entropy(rows, LABELS),
        LOGITS,
    )


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 2.0])
def test_tau_normalised_logits_against_a_slow_loop(tau):
    features, weight = draw(5, 3, seed=1), draw(4, 3, seed=2)
    found = tau_normalised_logits(features, weight, tau)
    for f, row in zip(features.tolist(), found.tolist(), strict=True):
        for w, z in zip(weight.tolist(), row, strict=True):
            length = math.sqrt(sum(x * x for x in w))
            assert z == pytest.approx(sum(a * b for a, b in zip(f, w, strict=True)) / length**tau)


def test_tau_normalisation_trains_plain_logits_and_judges_without_bias():
    module = small_method(partial(TauNormalisation, tau=0.5)).eval()
    batch = small_batch()
    outputs = module(batch)
    plain = cross_entropy(outputs["logits"].tolist(), batch["label"].tolist())
    assert module.criterion(outputs, batch)["loss"].item() == pytest.approx(plain, rel=1e-5)
    weight = module.classifier.weight
    expected = outputs["features"] @ (weight / weight.norm(dim=1, keepdim=True).sqrt()).T
    torch.testing.assert_close(module.scores(outputs), expected)


@pytest.mark.parametrize("method", SECOND_STAGES)
def test_the_first_stage_trains_everything_and_the_second_a_part(method):
    first, second = small_method(method, stage=1), as_trained(small_method(method, stage=2))
    assert all(parameter.requires_grad for parameter in first.parameters())
    trained = {name for name, parameter in second.named_parameters() if parameter.requires_grad}
    assert (
        trained
        == {
            ClassifierRetraining: {"classifier.weight", "classifier.bias"},
            LearnableWeightScaling: {"class_scale"},
            MiSLAS: {"classifier.weight", "classifier.bias", "class_scale"},
        }[method]
    )
    before = {name: tensor.clone() for name, tensor in second.named_parameters()}
    batch = small_batch(12)
    losses = [one_step(at_epoch(second, 0), batch)["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained), name


def test_crt_forgets_the_classifier_and_keeps_it_for_the_comparison():
    module = small_method(ClassifierRetraining, stage=2)
    fresh = module.classifier.weight.detach().clone()
    with torch.no_grad():
        module.classifier.weight += 1
    as_trained(module)
    torch.testing.assert_close(module.classifier.weight, fresh)
    outputs = module.eval()(small_batch())
    old = outputs["features"] @ (fresh + 1).T + module.classifier.bias
    torch.testing.assert_close(outputs["old_logits"], old)


@pytest.mark.parametrize("method", [LearnableWeightScaling, MiSLAS])
def test_scales_multiply_logits_bias_included(method):
    module = as_trained(small_method(method, stage=2)).eval()
    batch = small_batch()
    plain = module(batch)["logits"].clone()
    scale = torch.tensor([0.5, 1.0, 2.0, -1.0])
    with torch.no_grad():
        module.class_scale.copy_(scale)
        module.classifier.bias.fill_(0.25)
    unscaled = plain + 0.25 - small_method(method, stage=2).classifier.bias
    torch.testing.assert_close(module(batch)["logits"], unscaled * scale)


@pytest.mark.parametrize("shifts", [True, False])
def test_batch_norms_of_mislas_move_while_the_weights_stay(shifts):
    module = as_trained(small_method(partial(MiSLAS, stage=2, shift_batch_norm=shifts)))
    assert module.training
    norms = [one for one in module.backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    others = [one for one in module.backbone.modules() if one not in norms]
    assert norms
    assert {one.training for one in norms} == {shifts}
    assert not any(one.training for one in others)
    before = [norm.running_mean.clone() for norm in norms]
    outputs = module(small_batch())
    assert not outputs["features"].requires_grad
    assert all(torch.equal(a, norm.running_mean) != shifts for a, norm in zip(before, norms, strict=True))
    assert not any(one.training for one in module.eval().backbone.modules())


def test_the_second_stage_of_mislas_has_two_learning_rates():
    module = as_trained(small_method(partial(MiSLAS, stage=2, classifier_lr_scale=0.2)))
    rates = {id(parameter): group["lr"] for group in module.trained_groups() for parameter in group["params"]}
    assert rates == {
        id(module.class_scale): 0.1,
        id(module.classifier.weight): pytest.approx(0.02),
        id(module.classifier.bias): pytest.approx(0.02),
    }
    everything = sum(len(group["params"]) for group in small_method(MiSLAS).trained_groups())
    assert everything == len(list(small_method(MiSLAS).parameters()))


def test_the_second_stage_of_mislas_smooths_labels():
    module = as_trained(small_method(partial(MiSLAS, stage=2, smooth_head=0.3, smooth_tail=0.0))).eval()
    batch = small_batch()
    outputs = module(batch)
    factors = torch.tensor(slow_factors(0.3, 0.0, "concave"))
    expected = label_aware_smoothing_loss(outputs["logits"], batch["label"], factors)
    assert module.criterion(outputs, batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_cached_features_cannot_follow_moving_batch_norms():
    module = small_method(MiSLAS, stage=2)
    with pytest.raises(UserError, match="cache_features=false"):
        module.training_step({"feature": torch.zeros(2, 16)}, 0)


@pytest.mark.parametrize("method", SECOND_STAGES)
def test_a_second_stage_needs_a_trained_backbone_and_there_is_no_third(method):
    with pytest.raises(UserError, match=r"task\.stage=2.*init_from=RUN"):
        small_method(method, stage=2).on_fit_start()
    with pytest.raises(UserError, match=r"task\.stage=3"):
        small_method(method, stage=3)


def test_lws_needs_the_classifier_too():
    module = small_method(LearnableWeightScaling, stage=2)
    module.backbone.pretrained = type(module.backbone.pretrained)(False, True, "init_from run")
    module.started_from(())
    with pytest.raises(UserError, match=r"none was loaded"):
        module.on_fit_start()


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        (partial(TauNormalisation, tau=-0.1), ValueError, r"task\.tau"),
        (partial(TauNormalisation, classifier="cosine"), UserError, r"task\.classifier=cosine"),
        (partial(MiSLAS, smooth_head=1.0), ValueError, r"task\.smooth_head"),
        (partial(MiSLAS, smooth_tail=-0.1), ValueError, r"task\.smooth_tail"),
        (partial(MiSLAS, classifier_lr_scale=0.0), ValueError, r"task\.classifier_lr_scale"),
    ],
)
def test_values_out_of_range_are_refused(method, error, text):
    with pytest.raises(error, match=text):
        small_method(method)
