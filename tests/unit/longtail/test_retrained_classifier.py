"""Old and new classifier: both judged, together or apart, kept in checkpoints, chosen on the validation part alone."""

import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from slow_numbers import draw, softmax
from small_methods import small_batch, small_method

from lit_modules.longtail.balanced_softmax import BalancedSoftmax
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.ensemble import TEMPERATURE_PAIRS, ensemble_scores
from lit_modules.longtail.gml import GML
from lit_modules.longtail.logit_adjustment import LogitAdjustment
from lit_modules.longtail.retrained_classifier import best_recalls
from lit_modules.longtail.tau_norm import TauNormalisation
from records.errors import UserError
from records.notices import RunWarning

HEADS = [CrossEntropy, BalancedSoftmax, LogitAdjustment, GML]


class FakeTrainer:
    """What a head asks a trainer for when it is judged; collects what is logged."""

    world_size = 1
    global_rank = 0
    global_step = 0
    current_epoch = 0
    max_epochs = 10
    training = False

    def __init__(self, batches=()):
        self.datamodule = SimpleNamespace(has_validation=bool(batches), val_dataloader=lambda: [list(batches)])
        self.strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
        self.precision_plugin = SimpleNamespace(forward_context=nullcontext)
        self.loggers = []


def retrained(method, batches=(), **settings):
    """Return a frozen module whose classifier has been changed since it was loaded."""
    module = small_method(method, **settings)
    module.started_from(("classifier.weight", "classifier.bias"))
    module.freeze_backbone()
    with torch.no_grad():
        module.classifier.weight += 0.5 * torch.randn(module.classifier.weight.shape)
    module._trainer = FakeTrainer(batches)
    module.transfer_batch_to_device = lambda batch, device, place: batch
    module.log_dict = lambda *arguments, **options: None
    return module.eval()


@pytest.mark.parametrize(("t1", "t2", "weight"), [(1.0, 1.0, 0.5), (0.5, 3.0, 0.3), (2.0, 1.0, 1.0), (2.0, 1.0, 0.0)])
def test_ensembles_against_a_slow_loop(t1, t2, weight):
    new, old = draw(6, 4, seed=1), draw(6, 4, seed=2)
    probability = ensemble_scores(new, old, "prob", t1, t2, weight).exp()
    logit = ensemble_scores(new, old, "logit", t1, t2, weight)
    for place in range(6):
        p = softmax([z / t1 for z in new[place].tolist()])
        q = softmax([z / t2 for z in old[place].tolist()])
        mixed = [weight * a + (1 - weight) * b for a, b in zip(p, q, strict=True)]
        assert probability[place].tolist() == pytest.approx(mixed)
        summed = [weight * a / t1 + (1 - weight) * b / t2 for a, b in zip(new[place], old[place], strict=True)]
        assert logit[place].tolist() == pytest.approx([float(z) for z in summed])


def test_equal_candidates_give_the_first_and_absent_classes_count_nothing():
    samples = [4, 0, 2]
    hits = [[1, 0, 1], [4, 0, 1], [3, 0, 2], [2, 0, 2], [4, 0, 1]]
    counts = torch.tensor([[row, samples] for row in hits])
    means = [(row[0] / 4 + row[2] / 2) / 2 for row in hits]
    assert best_recalls(counts) == means.index(max(means)) == 2
    assert best_recalls(counts[[1, 4]]) == 0


@pytest.mark.parametrize("method", HEADS)
def test_the_test_judges_the_classifier_before_and_after(method):
    module = retrained(method)
    batch = small_batch(40)
    outputs = module(batch)
    fresh = small_method(method).eval()
    torch.testing.assert_close(outputs["old_logits"], fresh(batch)["logits"])
    module.test_step(batch, 0)
    module.on_test_epoch_end()
    for prefix, logits in (("", outputs["logits"]), ("before_", outputs["old_logits"])):
        accuracy = (logits.argmax(dim=1) == batch["label"]).double().mean().item()
        assert module.exact_metrics[f"test/{prefix}accuracy"] == pytest.approx(accuracy)
    assert module.recognition_before.num_samples == module.recognition_result.num_samples == 40


def test_an_ensemble_is_judged_in_place_of_the_new_classifier():
    module = retrained(partial(GML, ensemble="prob", t1=0.5, t2=2.0, weight=0.25))
    batch = small_batch(40)
    outputs = module(batch)
    expected = 0.25 * (2 * outputs["logits"]).softmax(1) + 0.75 * (outputs["old_logits"] / 2).softmax(1)
    torch.testing.assert_close(module.scores(outputs).softmax(1), expected)
    assert "old_logits" not in module.train()(batch)


def test_post_hoc_adjustment_joins_an_ensemble_adjusted():
    module = retrained(partial(LogitAdjustment, adjust="post_hoc", ensemble="logit"))
    outputs = module(small_batch())
    expected = (module.new_scores(outputs) + outputs["old_logits"]) / 2
    torch.testing.assert_close(module.scores(outputs), expected)


def test_checkpoints_hold_the_old_classifier_and_what_was_chosen():
    batches = [small_batch(30, seed=seed) for seed in (1, 2)]
    module = retrained(partial(GML, ensemble="prob", temperatures="validation"), batches)
    module.on_test_start()
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    again = small_method(partial(GML, ensemble="prob", temperatures="validation")).eval()
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(module.state_dict())
    assert again.settings == module.settings
    batch = small_batch(20, seed=3)
    torch.testing.assert_close(again.scores(again(batch)), module.scores(module(batch)))
    assert not any(name.startswith("old") for name in module.state_dict())
    plain = {}
    small_method(GML).on_save_checkpoint(plain)
    assert plain == {}


def brute_force(module, batches, candidates):
    def mean_recall(settings):
        hits, samples = [0] * 4, [0] * 4
        for batch in batches:
            predictions = module.judged(module(batch), settings).argmax(dim=1)
            for label, prediction in zip(batch["label"].tolist(), predictions.tolist(), strict=True):
                samples[label] += 1
                hits[label] += label == prediction
        return sum(h / n for h, n in zip(hits, samples, strict=True) if n) / sum(n > 0 for n in samples)

    found = [mean_recall(settings) for settings in candidates]
    return candidates[next(place for place, value in enumerate(found) if value >= max(found) - 1e-12)]


@pytest.mark.parametrize(
    "method", [partial(CrossEntropy, ensemble="prob", temperatures="validation"), partial(TauNormalisation, tau=None)]
)
def test_settings_are_chosen_by_the_mean_recall_of_the_validation_part(method):
    batches = [small_batch(30, seed=seed) for seed in (1, 2)]
    module = retrained(method, batches)
    wanted = brute_force(module, batches, module.candidates)
    module.on_test_start()
    assert module.settings == wanted
    other = retrained(method, batches)
    for batch in batches:
        other.validation_step({**batch, "index": batch["index"] + 100 * id(batch)}, 0)
    other.on_validation_epoch_end()
    assert other.settings == wanted
    judged = torch.cat([other.scores(other(batch)).argmax(1) == batch["label"] for batch in batches])
    assert other.exact_metrics["val/accuracy"] == pytest.approx(judged.double().mean().item())
    assert {f"val/{name}": value for name, value in wanted.items()}.items() <= other.exact_metrics.items()


def test_temperatures_tried_start_at_none_and_go_from_a_quarter_to_four():
    assert TEMPERATURE_PAIRS[0] == {"t1": 1.0, "t2": 1.0}
    assert len({tuple(pair.values()) for pair in TEMPERATURE_PAIRS}) == 81
    assert {min(pair.values()) for pair in TEMPERATURE_PAIRS} >= {0.25}
    assert max(pair["t2"] for pair in TEMPERATURE_PAIRS) == 4
    distances = [sum(abs(math.log(t)) for t in pair.values()) for pair in TEMPERATURE_PAIRS]
    assert distances == sorted(distances)


def test_a_classifier_of_another_kind_or_shape_is_no_old_classifier():
    for loaded, unused in ((("classifier.weight",), ()), ((), ("classifier.weight",))):
        module = small_method(CrossEntropy)
        module.started_from(loaded, unused)
        assert not module.has_old_classifier
    cosine = small_method(CrossEntropy, classifier="cosine")
    cosine.started_from(("classifier.weight",), ("classifier.bias",))
    assert not cosine.has_old_classifier
    cosine.started_from(("classifier.weight",))
    assert cosine.has_old_classifier


def test_reinitialising_starts_anew_and_keeps_the_old_one():
    module = small_method(CrossEntropy, reinitialise=True)
    fresh = module.classifier.weight.detach().clone()
    with torch.no_grad():
        module.classifier.weight.zero_()
    module.started_from(("classifier.weight", "classifier.bias"))
    torch.testing.assert_close(module.classifier.weight, fresh)
    assert module.eval()(small_batch())["old_logits"].abs().max() <= module.classifier.bias.abs().max()


def test_without_a_frozen_backbone_nothing_is_said_of_before():
    module = retrained(CrossEntropy)
    module.is_backbone_frozen = False
    with pytest.warns(RunWarning, match="freeze=backbone"):
        module.on_fit_start()
    assert not module.has_old_classifier
    module.test_step(small_batch(20), 0)
    module.on_test_epoch_end()
    assert not any("before" in name for name in module.exact_metrics)
    assert module.recognition_before is None


def test_an_ensemble_needs_an_old_classifier_and_features_that_stay():
    scratch = small_method(GML, ensemble="prob")
    scratch._trainer = FakeTrainer()
    for begin in (scratch.on_fit_start, scratch.on_test_start):
        with pytest.raises(UserError, match=r"task\.ensemble=prob.*init_from=RUN"):
            begin()
    moving = retrained(GML, ensemble="logit")
    moving.is_backbone_frozen = False
    moving.trainer.training = True
    with pytest.raises(UserError, match="freeze=backbone"):
        moving.on_fit_start()


def test_choosing_needs_a_validation_part():
    ensemble = retrained(partial(GML, ensemble="prob", temperatures="validation"))
    for begin in (ensemble.on_fit_start, ensemble.on_test_start):
        with pytest.raises(UserError, match=r"t1, t2 .*data\.val_fraction=0\.1.*task\.temperatures=given"):
            begin()
    with pytest.raises(UserError, match=r"tau .*task\.tau=1\.0"):
        retrained(TauNormalisation, tau=None).on_test_start()
    with pytest.raises(UserError, match=r"no ensemble"):
        small_method(GML, temperatures="validation")


@pytest.mark.parametrize(("key", "value"), [("t1", 0.0), ("t2", -1.0), ("weight", 1.5)])
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"task\.{key}"):
        small_method(GML, **{key: value})
