"""Schedules against PyTorch's own, and as functions of the share of the run."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from lit_modules.optimization import learning_rate_scheduler
from lit_modules.schedules import Constant, Cosine, OneCycle, Step

STEPS = 200


def rates(make_scheduler, lr=0.1, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(schedule, steps=STEPS):
    return rates(lambda optimizer: learning_rate_scheduler(optimizer, schedule, steps), steps=steps)


def test_cosine_is_pytorchs():
    assert ours(Cosine()) == pytest.approx(rates(lambda optimizer: CosineAnnealingLR(optimizer, STEPS)), abs=1e-9)


def test_step_is_pytorchs_multistep():
    expected = rates(lambda optimizer: MultiStepLR(optimizer, [120, 160], gamma=0.1))
    assert ours(Step([0.6, 0.8])) == pytest.approx(expected)


def test_one_cycle_is_pytorchs_up_to_its_last_step():
    # PyTorch stretches the cycle over STEPS - 1 steps, so the two are compared at the same share of the run
    expected = rates(lambda optimizer: OneCycleLR(optimizer, 0.1, STEPS + 1, final_div_factor=1e4), lr=0.1)
    schedule = OneCycle(rise=(0.3 * (STEPS + 1) - 1) / STEPS)
    assert ours(schedule) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", [Constant(0.1), Cosine(0.1), Step([0.5], warmup=0.1)])
def test_warmup_rises_linearly_and_no_step_is_spent_at_zero(schedule):
    assert [schedule.multiplier(share, unit=0.025) for share in (0, 0.025, 0.05)] == pytest.approx([0.25, 0.5, 0.75])
    assert schedule.multiplier(0.1, unit=0.025) == pytest.approx(1)


def test_warmup_of_five_epochs_is_that_of_ldam_drw():
    found = ours(Step([0.8, 0.9], warmup=5 / 200, factor=0.01))
    assert found[:7] == pytest.approx([0.1 * epoch / 5 for epoch in (1, 2, 3, 4, 5, 5, 5)])
    assert (found[159], found[160], found[180]) == pytest.approx((0.1, 0.001, 0.00001))


def test_a_warmup_shorter_than_an_epoch_is_none():
    assert ours(Constant(0.05), steps=10) == [0.1] * 10


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Constant(warmup=5), "schedule.warmup=5"),
        (lambda: Cosine(warmup=1.0), "schedule.warmup=1.0"),
        (lambda: Cosine(warmup=-0.1), "schedule.warmup=-0.1"),
        (lambda: Step([0.5], warmup=float("nan")), "schedule.warmup=nan"),
        (lambda: Step([120, 160]), "schedule.milestones=120"),
        (lambda: OneCycle(rise=0.0), "schedule.rise=0.0"),
        (lambda: OneCycle(rise=30), "schedule.rise=30"),
    ],
)
def test_epochs_in_place_of_a_share_are_refused(build, key):
    with pytest.raises(ValueError, match="a share of the run, not epochs") as error:
        build()
    assert str(error.value).startswith(key)


def test_a_shorter_run_still_decays():
    assert ours(Step([0.6, 0.8]), steps=10)[-1] == pytest.approx(0.001)
    assert ours(Cosine(), steps=10)[-1] < 0.1 * ours(Cosine(), steps=10)[0]
