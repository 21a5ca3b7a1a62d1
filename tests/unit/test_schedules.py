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
def test_warmup_rises_linearly_from_zero(schedule):
    assert [schedule.multiplier(share) for share in (0, 0.025, 0.05)] == pytest.approx([0, 0.25, 0.5])
    assert schedule.multiplier(0.1) == pytest.approx(1)


def test_a_shorter_run_still_decays():
    assert ours(Step([0.6, 0.8]), steps=10)[-1] == pytest.approx(0.001)
    assert ours(Cosine(), steps=10)[-1] < 0.1 * ours(Cosine(), steps=10)[0]
