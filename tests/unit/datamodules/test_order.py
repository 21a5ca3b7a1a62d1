from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampling.order import EvaluationBatches, TrainingBatches, number_repeats, training_order
from records.errors import UserError

sizes = st.integers(0, 60)
worlds = st.integers(1, 5)
batch_sizes = st.integers(1, 9)


def test_the_training_order_is_a_permutation_of_its_own_for_every_seed_and_epoch() -> None:
    orders = [tuple(training_order(30, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len(set(orders)) == 16
    assert training_order(30, 2, 3).tolist() == list(orders[2 * 4 + 3])


@given(size=sizes, world=worlds, batch_size=batch_sizes)
def test_training_batches_are_equal_on_all_ranks_and_hold_no_image_twice(
    size: int, world: int, batch_size: int
) -> None:
    order = training_order(size, 0, 0)
    share = size // world
    if share == 0 or (share == 1 and batch_size > 1):
        with pytest.raises(UserError, match="no batch"):
            TrainingBatches(order, batch_size, 0, world)
        return
    ranks = [TrainingBatches(order, batch_size, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    shapes = [[len(batch) for batch in rank] for rank in batches]
    assert all(shape == shapes[0] for shape in shapes)
    assert [len(rank) for rank in ranks] == [len(shape) for shape in shapes]
    seen = [position for rank in batches for batch in rank for position in batch]
    assert len(set(seen)) == len(seen)
    dropped = size - len(seen)
    single = share % batch_size == 1 and batch_size > 1
    assert dropped == size % world + (world if single else 0)
    assert batch_size == 1 or min(shapes[0]) >= 2


def test_ranks_together_see_the_batches_of_one_process() -> None:
    order = training_order(48, 1, 2)
    alone = [set(batch) for batch in TrainingBatches(order, 12)]
    ranks = [list(TrainingBatches(order, 4, rank, 3)) for rank in range(3)]
    together = [set().union(*batches) for batches in zip(*ranks, strict=True)]
    assert together == alone


@given(size=sizes, world=worlds, batch_size=batch_sizes)
def test_evaluation_counts_every_sample_once_in_equal_numbers_of_batches(
    size: int, world: int, batch_size: int
) -> None:
    ranks = [EvaluationBatches(size, batch_size, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert len({len(rank) for rank in ranks}) == 1
    assert [len(rank) for rank in batches] == [len(rank) for rank in ranks]
    counted = Counter(position for rank in batches for batch in rank for position in batch)
    assert counted == Counter(range(size))
    for rank, own in enumerate(batches):
        assert [position for batch in own for position in batch] == list(range(rank, size, world))
        assert all(len(batch) <= batch_size for batch in own)
        if size >= world and (batch_size > 1 or world == 1):
            assert all(own)


def test_one_process_evaluates_full_batches() -> None:
    assert [len(batch) for batch in EvaluationBatches(10, 4)] == [4, 4, 2]


def test_numbered_repeats_tell_draws_apart() -> None:
    order = torch.tensor([2, 0, 2, 2, 1, 0])
    numbered = number_repeats(order, 3)
    assert numbered.tolist() == [2, 0, 5, 8, 1, 3]
    assert (numbered % 3).tolist() == order.tolist()
    without = training_order(20, 0, 0)
    assert torch.equal(number_repeats(without, 20), without)
    assert number_repeats(torch.empty(0, dtype=torch.int64), 3).tolist() == []


@pytest.mark.parametrize("make", [lambda: TrainingBatches(torch.arange(9), 0), lambda: EvaluationBatches(9, 0)])
def test_a_batch_size_of_zero_is_refused(make: object) -> None:
    with pytest.raises(UserError, match="batch size is 0"):
        make()  # type: ignore[operator]


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2"):
        EvaluationBatches(9, 3, 2, 2)
