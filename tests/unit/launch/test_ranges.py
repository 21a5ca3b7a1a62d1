"""Numbers out of their range are problems before anything starts."""

import pytest

from launch.check import check_overrides


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("seed=-1", "between 0 and 4294967295"),
        ("seed=4294967296", "between 0 and 4294967295"),
        ("trainer.max_epochs=-1", "at least 0"),
        ("trainer.accumulate_grad_batches=0", "at least 1"),
        ("trainer.check_val_every_n_epoch=0", "at least 1"),
        ("trainer.gradient_clip_val=-0.5", "at least 0"),
        ("optim.lr=-1e-3", "at least 0"),
        ("optim.lr=nan", "at least 0"),
        ("optim.weight_decay=-1", "at least 0"),
        ("model.suggested.lr=-1", "at least 0"),
    ],
)
def test_a_number_out_of_its_range_is_one_problem(override, allowed):
    (problem,) = check_overrides([override])
    assert f"it must be {allowed}" in problem.message
    assert problem.key in (override.partition("=")[0], "optim.lr")


@pytest.mark.parametrize(
    "override",
    [
        "seed=4294967295",
        "trainer.max_epochs=0",
        "trainer.gradient_clip_val=null",
        "optim.lr=0",
        "trainer.max_epochs=null",
    ],
)
def test_the_ends_of_a_range_and_null_are_none(override):
    assert check_overrides([override]) == []
