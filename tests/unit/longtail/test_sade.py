"""SADE's three losses against loops of plain numbers, and the prior it reverses."""

import math
from functools import partial

import pytest
import torch
from slow_numbers import COUNTS, LABELS, assert_equals_slow, cross_entropy, draw, priors
from small_methods import one_step, small_batch, small_method

from lit_modules.longtail.sade import SADE, reversed_by_rank, sade_loss
from records.errors import UserError

LOGITS = draw(len(LABELS), 3, 4, seed=5)
LABEL = torch.tensor(LABELS)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_three_experts(tau):
    pi = priors()
    inverse = sorted(pi)  # the counts fall from class 0 on
    shifts = [
        [0.0] * 4,
        [math.log(p) for p in pi],
        [math.log(p) - tau * math.log(q) for p, q in zip(pi, inverse, strict=True)],
    ]

    def slow(samples):
        return sum(
            cross_entropy([[z + s for z, s in zip(row[e], shifts[e], strict=True)] for row in samples], LABELS)
            for e in range(3)
        )

    assert_equals_slow(lambda z: sade_loss(z, LABEL, torch.tensor(COUNTS), tau)["loss"], slow, LOGITS)
    parts = sade_loss(LOGITS, LABEL, torch.tensor(COUNTS), tau)
    assert parts["loss"] == parts["forward"] + parts["uniform"] + parts["backward"]


def test_a_prior_is_reversed_by_rank_wherever_its_classes_stand():
    assert reversed_by_rank(torch.tensor([3.0, 9.0, 1.0, 5.0])).tolist() == [5.0, 1.0, 9.0, 3.0]


def test_a_step_lowers_the_loss_and_the_mean_of_the_experts_is_judged():
    module = small_method(SADE, experts=3, classifier="cosine")
    batch = small_batch()
    first = one_step(module, batch, lr=0.01)
    assert one_step(module, batch, lr=0.01)["loss"] < first["loss"]
    outputs = module.eval()(batch)
    assert outputs["expert_logits"].shape == (8, 3, 4)
    torch.testing.assert_close(module.scores(outputs), outputs["expert_logits"].mean(dim=1))
    assert not torch.allclose(outputs["expert_logits"][:, 0], outputs["expert_logits"][:, 1])


def test_a_backbone_without_branches_and_another_number_of_experts_are_refused():
    with pytest.raises(UserError, match=r"task\.experts=3.*has 1 branch.*model\.experts=3"):
        small_method(SADE)
    with pytest.raises(ValueError, match=r"task\.experts must be 3"):
        small_method(partial(SADE, experts=4), experts=4)
