"""Remix: mixup whose label leans to the rarer class, against a slow loop."""

import pytest
import torch
from slow_numbers import assert_equals_slow, draw, log_softmax
from small_methods import small_batch, small_method

from lit_modules.blending.mixup import mix
from lit_modules.longtail.remix import Remix, label_shares, remix_loss


def test_remix_gives_the_label_to_the_rarer_class():
    share = torch.tensor([0.4, 0.6, 0.6, 0.4, 0.4])
    own, partner = torch.tensor([50, 50, 2, 2, 20]), torch.tensor([2, 2, 50, 50, 20])
    assert label_shares(share, own, partner).tolist() == pytest.approx([0.0, 0.6, 1.0, 0.4, 0.4])
    assert label_shares(share, own, partner, threshold=0.7).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0, 0.4])


OWN, PARTNER, SHARES, WEIGHTS = [0, 1, 2, 3], [3, 2, 1, 0], [0.0, 1.0, 0.25, 0.5], [0.2, 0.5, 1.0, 2.3]


def remix_of(logits, shares=SHARES, weights=WEIGHTS):
    tensors = [torch.tensor(values) for values in (OWN, PARTNER)]
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return remix_loss(logits, *tensors, torch.tensor(shares, dtype=torch.float64), given)


@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_remix_loss(weights):
    given = weights or [1.0] * 4

    def slow(rows):
        total = mass = 0.0
        for row, a, b, s in zip(rows, OWN, PARTNER, SHARES, strict=True):
            p = log_softmax(row)
            for label, share in ((a, s), (b, 1 - s)):
                total -= share * given[label] * p[label]
                mass += share * given[label]
        return total / mass

    assert_equals_slow(lambda z: remix_of(z, weights=weights), slow, draw(4, 4))


def test_labels_that_are_kept_whole_give_the_weighted_cross_entropy():
    logits = draw(4, 4)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    for shares, label in (([1.0] * 4, OWN), ([0.0] * 4, PARTNER)):
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(label), weights)
        torch.testing.assert_close(remix_of(logits, shares), expected)


def test_remix_takes_the_counts_of_the_two_labels():
    module = small_method(Remix, mixup_alpha=1.0).eval()
    pair = small_batch(2) | {"label": torch.tensor([0, 3])}
    batch = mix(pair, {key: values.flip(0) for key, values in pair.items()}, 0.4)
    outputs = module(batch)
    p = outputs["logits"].log_softmax(dim=1)
    # image 0 loses its frequent label; image 1 keeps its rare one for 0.4, less than tau lets it win by
    expected = -(p[0, 3] + 0.4 * p[1, 3] + 0.6 * p[1, 0]) / 2
    assert module.loss(outputs, batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
