"""Loaders that are made anew for every epoch and rank: what data of images and data of features share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.images.source import Batch, whole_batch
from datamodules.sampling.order import EvaluationBatches, TrainingBatches, number_repeats, training_order
from datamodules.sampling.randomness import Stream, random_generator
from records.errors import UserError


class EpochLoaders(LightningDataModule, ABC):
    """Loaders whose batches are a pure function of (seed, epoch, rank); a kind of data adds its views and splits.

    The trainer has to reload the loaders every epoch (`reload_dataloaders_every_n_epochs=1`) and to leave the samplers
    alone (`use_distributed_sampler=False`).

    Args:
        seed: the run's seed, for orders and random changes.
        batch_size: training samples per batch and rank.
        eval_batch_size: upper bound of evaluation samples per batch and rank; None takes `batch_size`.
        num_workers: loading processes; batches are the same with any number.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, seed: int, batch_size: int, eval_batch_size: int | None, num_workers: int) -> None:
        super().__init__()
        self.seed = seed
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        for key in ("batch_size", "eval_batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key} is {getattr(self, key)}; it must be at least 1")
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; it must be 0 (this process) or more")

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Number of samples of every split."""

    @property
    @abstractmethod
    def val_splits(self) -> tuple[str, ...]:
        """Splits of the validation loaders, in order; empty without a validation part."""

    @property
    @abstractmethod
    def test_splits(self) -> tuple[str, ...]:
        """Splits of the test loaders, in order."""

    @abstractmethod
    def training_view(self, epoch: int) -> Dataset[Batch]:
        """Make what the training loader of an epoch reads."""

    @abstractmethod
    def evaluation_view(self, split: str) -> Dataset[Batch]:
        """Make what the loader of an evaluation split reads."""

    @property
    def epoch(self) -> int:
        """The epoch a training loader is built for; 0 without a trainer, and where the same batches are overfit."""
        if self.trainer is None or self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return 0
        # current_epoch still counts the old epoch when the first loader after a resume is built.
        return self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]

    def training_order(self, epoch: int) -> torch.Tensor:
        """Order the training split for this epoch, int64 positions; a sampling rule may repeat some."""
        return training_order(self.sizes["train"], self.seed, epoch)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader of the coming epoch, for this rank."""
        epoch = self.epoch
        draws = number_repeats(self.training_order(epoch), self.sizes["train"])
        return self._training_loader(self.training_view(epoch), draws, epoch)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Make a loader for each of `val_splits`, for this rank's shard; none without a validation part."""
        return [self.evaluation_loader(split) for split in self.val_splits]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Make a loader for each of `test_splits`, for this rank's shard."""
        return [self.evaluation_loader(split) for split in self.test_splits]

    def evaluation_loader(self, split: str) -> DataLoader[Batch]:
        """Make the loader of one split, in its order and without random changes, for this rank's shard."""
        batches = EvaluationBatches(self.sizes[split], self.eval_batch_size, *self._rank_and_world_size())
        return self._loader(self.evaluation_view(split), batches, 0)

    def _training_loader(self, view: Dataset[Batch], order: torch.Tensor, epoch: int) -> DataLoader[Batch]:
        """Make a loader that hands out what `order` names of a view, in this rank's equal batches."""
        return self._loader(view, TrainingBatches(order, self.batch_size, *self._rank_and_world_size()), epoch)

    def _loader(self, view: Dataset[Batch], batches: Sampler[list[int]], epoch: int) -> DataLoader[Batch]:
        rank, _ = self._rank_and_world_size()
        return DataLoader(
            view,
            batch_sampler=batches,
            collate_fn=whole_batch,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # Without a generator of its own a loader draws its workers' seeds from the global one, and advances it.
            generator=random_generator(self.seed, epoch, Stream.WORKER, rank),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        trainer: Any = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
