"""Mixup is a pure function of (seed, epoch, step, rank), judged against both labels; Remix leans to the rarer one."""

import numpy as np
import pytest
import torch
from slow_numbers import assert_equals_slow, draw, log_softmax
from small_methods import at_epoch, small_batch, small_method

from lit_modules.fewshot import blending
from lit_modules.longtail import mixup
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.gml import GML
from lit_modules.longtail.mixup import dominant_label, draw_partners, draw_share, mix
from lit_modules.longtail.remix import Remix, label_shares, remix_loss


def test_draws_are_pure_and_ranks_share_lambda():
    assert draw_share(1.0, 0, 3, 5) == draw_share(1.0, 0, 3, 5)
    assert len({draw_share(1.0, *place) for place in ((0, 3, 5), (1, 3, 5), (0, 4, 5), (0, 3, 6))}) == 4
    partners = [draw_partners(64, 0, 3, 5, rank) for rank in (0, 0, 1)]
    assert torch.equal(partners[0], partners[1])
    assert not torch.equal(partners[0], partners[2])
    assert partners[0].sort().values.tolist() == list(range(64))


def test_images_of_bytes_and_floats_blend_alike():
    image = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
    batch = {"image": image, "label": torch.tensor([0, 1, 2, 3]), "index": torch.arange(4)}
    partners = torch.tensor([1, 0, 3, 2])
    mixed = mix(batch, 0.3, partners)
    expected = (0.3 * image.double() + 0.7 * image[partners].double()) / 255
    torch.testing.assert_close(mixed["image"].double(), expected, atol=1e-6, rtol=0)
    as_floats = mix({**batch, "image": image.float() / 255}, 0.3, partners)
    torch.testing.assert_close(as_floats["image"], mixed["image"])
    assert mixed["partner_label"].tolist() == [1, 0, 3, 2]
    assert dominant_label(mixed).tolist() == [1, 0, 3, 2]
    assert dominant_label(mix(batch, 0.8, partners)).tolist() == [0, 1, 2, 3]
    assert batch["image"] is image


@pytest.mark.parametrize("method", [CrossEntropy, GML])
def test_the_loss_is_that_of_both_labels(method):
    module = small_method(method, mixup_alpha=1.0).eval()
    batch = at_epoch(module, 2)._blended(small_batch(), 7)
    share = draw_share(1.0, 0, 2, 7)
    outputs = module(batch)
    own, partner = (
        module.criterion(outputs, {"label": batch[name]})["loss"].item() for name in ("label", "partner_label")
    )
    assert own != partner
    found = module.loss(outputs, batch)["loss"].item()
    assert found == pytest.approx(share * own + (1 - share) * partner, rel=1e-6)


def test_without_alpha_the_batch_stays_as_it_is():
    batch = small_batch()
    assert small_method(CrossEntropy)._blended(batch, 0) is batch


def test_remix_gives_the_label_to_the_rarer_class():
    share = torch.tensor([0.4, 0.6, 0.6, 0.4, 0.4])
    own, partner = torch.tensor([50, 50, 2, 2, 20]), torch.tensor([2, 2, 50, 50, 20])
    assert label_shares(share, own, partner).tolist() == pytest.approx([0.0, 0.6, 1.0, 0.4, 0.4])
    assert label_shares(share, own, partner, threshold=0.7).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0, 0.4])


def test_remix_loss():
    logits, own, partner, shares = draw(4, 4), [0, 1, 2, 3], [3, 2, 1, 0], [0.0, 1.0, 0.25, 0.5]
    weights = [0.2, 0.5, 1.0, 2.3]

    def slow(rows):
        total = 0.0
        for row, a, b, s in zip(rows, own, partner, shares, strict=True):
            p = log_softmax(row)
            total -= s * weights[a] * p[a] + (1 - s) * weights[b] * p[b]
        return total / len(rows)

    def fast(z):
        tensors = [torch.tensor(values) for values in (own, partner)]
        numbers = [torch.tensor(values, dtype=torch.float64) for values in (shares, weights)]
        return remix_loss(z, *tensors, *numbers)

    assert_equals_slow(fast, slow, logits)


def test_remix_takes_the_counts_of_the_two_labels():
    module = small_method(Remix, mixup_alpha=1.0).eval()
    batch = mix(small_batch(2), 0.4, torch.tensor([1, 0])) | {"label": torch.tensor([0, 3])}
    batch["partner_label"] = torch.tensor([3, 0])
    outputs = module(batch)
    p = outputs["logits"].log_softmax(dim=1)
    # image 0 loses its frequent label; image 1 keeps its rare one for 0.4, less than tau lets it win by
    expected = -(p[0, 3] + 0.4 * p[1, 3] + 0.6 * p[1, 0]) / 2
    assert module.loss(outputs, batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_two_draws_of_a_step_share_their_random_numbers():
    seeds = [
        [5, 1, 2, mixup.SHARE_STREAM],
        *([5, 1, 2, rank, mixup.PARTNER_STREAM] for rank in range(3)),
        *([5, 1, 2, stream] for stream in (blending.CHOICE_STREAM, blending.BOX_STREAM)),
    ]
    first = [np.random.default_rng(seed).integers(2**63) for seed in seeds]
    assert len(set(first)) == len(seeds)
