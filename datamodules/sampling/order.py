"""In which order and by which rank the samples are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

from datamodules.sampling.randomness import Stream, random_order
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


def training_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """Draw the order of one epoch: a permutation of 0 .. size - 1, int64 (size,)."""
    return torch.from_numpy(random_order(size, seed, epoch, Stream.ORDER))


def number_repeats(order: torch.Tensor, size: int) -> torch.Tensor:
    """Tell apart the repeats of a sample within one epoch.

    A sampler that balances classes draws the same image several times; each draw needs random numbers of
    its own. The r-th draw (r = 0, 1, ...) of position p becomes p + r * size, so `divmod(number, size)`
    gives (r, p) back.

    Args:
        order: int64 (N,), positions in 0 .. size - 1, repeats allowed.
        size: number of samples.

    Returns:
        int64 (N,), all different; equal to `order` where nothing repeats.
    """
    positions = order.numpy()
    by_position = np.argsort(positions, kind="stable")
    ordered = positions[by_position]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    start_of_group = np.maximum.accumulate(np.where(is_first, np.arange(len(ordered)), 0))
    repeats = np.empty_like(positions)
    repeats[by_position] = np.arange(len(ordered)) - start_of_group
    return torch.from_numpy(positions + repeats * size)


def _check_rank(rank: int, world_size: int, batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}; it must be at least 1 (data.batch_size, data.eval_batch_size)")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; it must lie in 0 .. {world_size - 1}")


class TrainingBatches(Sampler[list[int]]):
    """Batches of one epoch for one rank; the same number and the same sizes on every rank.

    Batch i of all ranks together holds the entries i * B * W to (i + 1) * B * W of the order (batch size B,
    W ranks), so W ranks with batches of B see what one process sees with batches of B * W. Two remainders
    are left out, and with a shuffled order they are other images in every epoch: the len(order) % W images
    that cannot be shared out evenly, and a last batch of a single image per rank, which batch normalisation
    cannot use (kept if the batch size is 1).

    Args:
        order: int64 (N,), the positions of this epoch, in order; repeats allowed.
        batch_size: images per batch and rank.
        rank: this process.
        world_size: number of processes.

    Raises:
        UserError: no batch remains, or the batch size is below 1.
    """

    def __init__(self, order: torch.Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        _check_rank(rank, world_size, batch_size)
        share = len(order) // world_size
        remainder = share % batch_size
        self._kept = share - 1 if remainder == 1 and batch_size > 1 else share
        if self._kept == 0:
            raise UserError(
                f"{len(order)} training images on {world_size} process(es) leave no batch to train on; "
                "take a larger training part or fewer devices (trainer.devices)"
            )
        self._mine = order[: share * world_size][rank::world_size][: self._kept]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-self._kept // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._mine.split(self._batch_size):
            yield batch.tolist()


class EvaluationBatches(Sampler[list[int]]):
    """The shard rank::world_size of 0 .. size - 1, unpadded: over all ranks every sample is counted once.

    Every rank gets the same number of batches, and their sizes differ by at most one between ranks: under
    data-parallel training the first forward pass of an evaluation broadcasts the buffers, so that a rank
    without a batch would leave the others waiting. Where a rank has fewer samples than there are batches
    (fewer samples than ranks, say) it is handed empty batches.

    Args:
        size: number of samples.
        batch_size: upper bound of the images per batch and rank.
        rank: this process.
        world_size: number of processes.

    Raises:
        UserError: the batch size is below 1.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        _check_rank(rank, world_size, batch_size)
        shard = np.arange(rank, size, world_size)
        largest_shard = -(-size // world_size)
        count = -(-largest_shard // batch_size)
        if world_size == 1:
            cuts = list(range(batch_size, size, batch_size))
        else:
            cuts = [len(shard) * number // count for number in range(1, count)]
        self._batches = np.split(shard, cuts) if count else []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch.tolist()
