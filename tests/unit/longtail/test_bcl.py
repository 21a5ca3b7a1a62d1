"""BCL's contrast against a loop of plain numbers, and what its views go to."""

import math

import pytest
import torch
from slow_numbers import assert_equals_slow, dot, draw, normalised
from small_methods import one_step, small_batch, small_method

from lit_modules.longtail.bcl import BCL, balanced_contrastive_loss
from records.errors import UserError

LABELS = [0, 2, 0, 1]
DIRECTIONS, CENTRES = draw(4, 2, 3, seed=1), draw(4, 3, seed=2)


def slow_contrast(pairs, centres, temperature=0.1):
    """Class by class: the mean over the members of each class, the anchor not among them."""
    samples = [(normalised(pair[view]), y) for view in range(2) for pair, y in zip(pairs, LABELS, strict=True)]
    columns = samples + [(normalised(centre), c) for c, centre in enumerate(centres)]
    total = 0.0
    for i, (anchor, y) in enumerate(samples):
        others = [(dot(anchor, x) / temperature, c) for j, (x, c) in enumerate(columns) if j != i]
        mass = 0.0
        for c in range(len(centres)):
            members = [math.exp(s) for s, label in others if label == c]
            mass += sum(members) / len(members)
        own = [s for s, label in others if label == y]
        total -= sum(s - math.log(mass) for s in own) / len(own)
    return total / len(samples)


def test_the_contrast_and_its_gradients_to_directions_and_centres():
    def fast(directions, centres):
        unit = torch.nn.functional.normalize
        return balanced_contrastive_loss(unit(directions, dim=2), torch.tensor(LABELS), unit(centres), 0.1)

    pairs, centres = DIRECTIONS.tolist(), CENTRES.tolist()
    assert_equals_slow(lambda d: fast(d, CENTRES), lambda p: slow_contrast(p, centres), DIRECTIONS)
    assert_equals_slow(lambda c: fast(DIRECTIONS, c), lambda rows: slow_contrast(pairs, rows), CENTRES)


@pytest.mark.parametrize("views", [2, 3])
def test_a_step_reaches_every_parameter_and_lowers_the_loss(views):
    module = small_method(BCL, classifier="cosine").train()
    batch = small_batch(views=views)
    module.loss(module(batch), batch)["loss"].backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None]
    assert missing == []
    module.zero_grad()
    first = one_step(module, batch, lr=0.01)
    assert one_step(module, batch, lr=0.01)["loss"] < first["loss"]
    assert first["loss"] == pytest.approx(first["classification"] + 0.35 * first["contrast"], rel=1e-6)


def test_with_three_views_the_first_is_the_classifiers_alone():
    module = small_method(BCL, classifier="cosine").train()
    outputs = module(small_batch(views=3))
    assert outputs["logits"].shape == (8, 4)
    assert outputs["directions"].shape == (8, 2, 128)
    torch.testing.assert_close(outputs["directions"].norm(dim=2), torch.ones(8, 2))
    features = module.backbone(small_batch(views=3)["views"].flatten(0, 1))
    expected = module.projection(features[8:]).unflatten(0, (2, 8)).transpose(0, 1)
    torch.testing.assert_close(outputs["directions"], expected)


def test_both_heads_may_be_wider_than_the_features():
    module = small_method(BCL, classifier="cosine", hidden=24, width=6).train()
    for head in (module.projection, module.centre_projection):
        assert [layer.out_features for layer in head.layers if hasattr(layer, "out_features")] == [24, 6]
    assert module(small_batch(views=3))["directions"].shape == (8, 2, 6)


def test_training_without_views_is_refused():
    with pytest.raises(UserError, match=r"data\.views=1: BCL"):
        small_method(BCL).train()(small_batch())
