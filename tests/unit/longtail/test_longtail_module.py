"""What the methods share: classifiers, deferred weights, recalls of the training part, evaluation, refusals."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from small_methods import COUNTS, at_epoch, one_step, small_batch, small_method
from torch.nn import functional as F

from lit_modules.base import LabelSpace
from lit_modules.longtail.balanced_softmax import BalancedSoftmax
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.class_balanced import ClassBalanced
from lit_modules.longtail.classifier import CosineClassifier, build_classifier
from lit_modules.longtail.feabal import FeatureBalanced, class_shifts, feature_balanced_loss
from lit_modules.longtail.focal import Focal
from lit_modules.longtail.gml import GML
from lit_modules.longtail.lade import LADE
from lit_modules.longtail.ldam import LDAM
from lit_modules.longtail.logit_adjustment import LogitAdjustment
from lit_modules.longtail.training_recalls import TrainingRecalls
from lit_modules.optimization import parameter_groups
from records.errors import UserError

METHODS = [
    CrossEntropy,
    Focal,
    partial(ClassBalanced, loss_kind="softmax"),
    partial(ClassBalanced, loss_kind="sigmoid"),
    partial(ClassBalanced, loss_kind="focal"),
    BalancedSoftmax,
    LogitAdjustment,
    partial(LogitAdjustment, adjust="post_hoc"),
    partial(LDAM, classifier="cosine"),
    LADE,
    FeatureBalanced,
    GML,
    partial(GML, power=2.0),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_few_steps_lower_the_loss_of_every_method(method):
    module = at_epoch(small_method(method), 100)
    batch = small_batch(12)
    losses = [one_step(module, batch, lr=0.02)["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_loss_under_half_precision_is_that_of_its_own_logits_in_float32(method):
    module = small_method(method).train()
    batch = small_batch(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module(batch)
        loss = module.loss(outputs, batch)["loss"]
    assert outputs["logits"].dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(module.criterion(outputs, batch)["loss"].item(), rel=1e-6)


def test_cosine_logits_carry_the_scale_once():
    classifier = CosineClassifier(3, 5, 30.0)
    features = torch.randn(7, 3)
    for f, row in zip(features, classifier(features), strict=True):
        for w, z in zip(classifier.weight, row, strict=True):
            assert z.item() == pytest.approx(30 * (f @ w).item() / (f.norm() * w.norm()).item(), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(classifier(5 * features), classifier(features))
    torch.testing.assert_close(classifier.weight.norm(dim=1), torch.ones(5))
    with pytest.raises(ValueError, match=r"task\.scale"):
        CosineClassifier(3, 5, 0.0)


def test_classifiers_compute_in_float32_under_autocast():
    for kind in ("linear", "cosine"):
        classifier = build_classifier(kind, 8, 3, 30.0)
        features = torch.randn(4, 8).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = classifier(features)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, classifier(features.float()))


@pytest.mark.parametrize("method", [CrossEntropy, Focal, BalancedSoftmax, LADE, FeatureBalanced, LogitAdjustment])
def test_deferred_weights_change_the_loss_from_their_epoch_on(method):
    rule = {"kind": "balanced", "beta": 0.9999, "normalise": "classes", "from_fraction": 0.8}
    module = small_method(method, class_weights=rule).eval()
    module.strength = 0.0  # FeaBal's own curriculum moves with the epochs too
    batch = small_batch()
    outputs = module(batch)
    early, before, late = (at_epoch(module, epoch).criterion(outputs, batch)["loss"].item() for epoch in (0, 159, 160))
    assert early == before != late


def test_weights_are_those_of_the_counts():
    module = small_method(CrossEntropy, class_weights={"kind": "balanced"}).eval()
    batch = small_batch()
    outputs = module(batch)
    raw = np.array([1 / n for n in COUNTS])
    expected = F.cross_entropy(outputs["logits"], batch["label"], torch.tensor(4 * raw / raw.sum()).float())
    assert module.criterion(outputs, batch)["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("method", [GML, ClassBalanced])
def test_methods_that_balance_by_themselves_refuse_weights(method):
    with pytest.raises(UserError, match=r"task\.class_weights\.kind=effective.*rule=none"):
        small_method(method, class_weights={"kind": "effective"})
    small_method(method, class_weights={"kind": "none"})


def test_feabals_strength_follows_the_epochs_and_evaluation_takes_plain_logits():
    module = small_method(FeatureBalanced, strength=40.0).eval()
    batch = small_batch()
    outputs = module(batch)
    assert module.scores(outputs) is outputs["logits"]
    shifts = class_shifts(torch.tensor(COUNTS).float())
    for epoch, share in ((0, 0.0), (95, 0.25), (199, 1.0)):
        found = at_epoch(module, epoch).criterion(outputs, batch)["loss"]
        expected = feature_balanced_loss(outputs["logits"], outputs["features"], batch["label"], shifts, 40.0 * share)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_post_hoc_adjustment_trains_plain_and_judges_adjusted():
    module = small_method(partial(LogitAdjustment, adjust="post_hoc", tau=1.5)).eval()
    batch = small_batch()
    outputs = module(batch)
    plain = F.cross_entropy(outputs["logits"], batch["label"])
    assert module.criterion(outputs, batch)["loss"].item() == pytest.approx(plain.item(), rel=1e-6)
    prior = torch.tensor([n / sum(COUNTS) for n in COUNTS])
    torch.testing.assert_close(module.scores(outputs), outputs["logits"] - 1.5 * prior.log())


def test_sigmoid_losses_start_at_even_odds_and_spare_that_bias_from_decay():
    module = small_method(partial(ClassBalanced, loss_kind="sigmoid"))
    torch.testing.assert_close(module.classifier.bias, torch.full((4,), -math.log(3)))
    groups = parameter_groups(module, module.backbone, module.optimization, module.no_weight_decay())
    spared = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert [p is module.classifier.bias for p in spared] == [True]
    assert small_method(ClassBalanced).no_weight_decay() == set()


def test_evaluation_judges_classes_by_training_counts():
    module = small_method(CrossEntropy, counts=(150, 50, 6, 2)).eval()
    batch = small_batch(40)
    module.validation_step(batch, 0)
    result = module.metric.compute()
    hits = (module(batch)["logits"].argmax(dim=1) == batch["label"]).float()
    recalls = [hits[batch["label"] == c].mean().item() for c in range(4)]
    assert result.metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert result.metrics["many"] == pytest.approx(recalls[0])
    assert result.metrics["medium"] == pytest.approx(recalls[1])
    assert result.metrics["few"] == pytest.approx((recalls[2] + recalls[3]) / 2)


def test_recalls_of_the_training_part_against_a_count_by_hand():
    metric = TrainingRecalls(4, floor=0.01)
    predictions, labels = [0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 2]
    for part in (slice(0, 4), slice(4, 6)):
        metric.update(F.one_hot(torch.tensor(predictions[part]), 4), torch.tensor(labels[part]))
    found = metric.compute()
    recalls = [2 / 3, 1 / 2, 0.01]
    assert found["accuracy"] == 3 / 6
    assert found["gm"] == pytest.approx(math.prod(recalls) ** (1 / 3))
    assert found["hm"] == pytest.approx(3 / sum(1 / r for r in recalls))
    assert found["lowest_recall"] == 0


def test_a_class_without_images_and_images_of_several_classes_are_refused():
    with pytest.raises(UserError, match=r"1 of 4 classes.*'d'.*data\.imbalance_ratio"):
        small_method(CrossEntropy, counts=(50, 20, 6, 0))
    labels = LabelSpace(2, ("a", "b"), (3, 4), True, 7)
    module = small_method(CrossEntropy)
    with pytest.raises(UserError, match="one class per image"):
        CrossEntropy(backbone=module.backbone, labels=labels, optimization=None, metric=module.metric)


@pytest.mark.parametrize("method", [CrossEntropy, GML])
def test_the_loss_of_blended_images_is_that_of_both_labels(method):
    module = at_epoch(small_method(method, mixup_alpha=1.0), 2).eval()
    batch = module.blended(small_batch(), 7)
    share = module.blending.share(2, 7)
    outputs = module(batch)
    own, partner = (
        module.criterion(outputs, {"label": batch[name]})["loss"].item() for name in ("label", "partner_label")
    )
    assert own != partner
    assert module.loss(outputs, batch)["loss"].item() == pytest.approx(share * own + (1 - share) * partner, rel=1e-6)


def test_partners_are_images_of_the_batch():
    module = at_epoch(small_method(CrossEntropy, cutmix_alpha=1.0), 2)
    batch = small_batch()
    blended = module.blended(batch, 3)
    rows = module.blending.partners(8, 2, 3)
    assert torch.equal(blended["partner_label"], batch["label"][rows])
    changed = blended["image"] != batch["image"]
    assert changed.any()
    assert torch.equal(blended["image"][changed], batch["image"][rows][changed])


def test_images_drawn_to_be_pasted_are_the_partners():
    module = at_epoch(small_method(CrossEntropy, cutmix_alpha=1.0), 2)
    batch, foreground = small_batch(), small_batch(seed=1)
    drawn = batch | {"foreground": foreground["image"], "foreground_label": foreground["label"]}
    blended = module.blended(drawn, 3)
    assert set(blended) == {*batch, "partner_label", "own_share"}
    assert torch.equal(blended["partner_label"], foreground["label"])
    changed = blended["image"] != batch["image"]
    assert changed.any()
    assert torch.equal(blended["image"][changed], foreground["image"][changed])
    with pytest.raises(UserError, match=r"data\.foreground draws.*task\.cutmix_alpha=1"):
        at_epoch(small_method(CrossEntropy), 2).blended(drawn, 3)


def test_without_alpha_the_batch_stays_as_it_is():
    batch = small_batch()
    assert at_epoch(small_method(CrossEntropy), 0).blended(batch, 0) is batch


def test_margins_without_cosines_are_refused():
    with pytest.raises(UserError, match=r"task\.classifier=linear"):
        small_method(LDAM)


@pytest.mark.parametrize(
    ("method", "key"),
    [
        (partial(Focal, gamma=-1.0), "task.gamma"),
        (partial(ClassBalanced, beta=1.0), "task.beta"),
        (partial(FeatureBalanced, full_at=0.0), "task.full_at"),
        (partial(GML, power=0.5), "task.power"),
        (partial(GML, floor=1.0), "task.floor"),
        (partial(CrossEntropy, mixup_alpha=-1.0), "task.mixup_alpha"),
        (partial(LDAM, classifier="cosine", max_margin=0.0), "task.max_margin"),
    ],
)
def test_values_out_of_range_are_refused(method, key):
    with pytest.raises(ValueError) as error:
        small_method(method)
    assert str(error.value).startswith(key)
