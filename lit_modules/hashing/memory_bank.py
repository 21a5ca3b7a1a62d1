"""A memory bank: the latest hash values of every training image, for losses that compare a batch with all of them.

The batch's own rows are written, without gradient, before the loss reads the bank, so that a batch is compared with
itself too, as in the code behind the published figures (github.com/swuxyj/DeepHash-pytorch).
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from lit_modules.base import Batch, LabelSpace, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.hashing.memory_cost import check_fits, readable_bytes, step_bytes
from records.console import say
from records.errors import UserError
from records.notices import RunWarning

NO_CLASS = -1
NOTEWORTHY_BYTES = 2**30


class MemoryBank(nn.Module):
    """The latest values and the labels of N training images, as buffers: they are saved, restored and moved.

    Attributes:
        values: float (N, K), 0 where an image has not been seen yet.
        labels: int64 (N,), `NO_CLASS` where not seen; or float (N, C) multi-hot, 0 where not seen.
        seen: bool (N,).
    """

    values: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, size: int, bits: int, num_classes: int, multi_label: bool) -> None:
        super().__init__()
        labels = torch.zeros(size, num_classes) if multi_label else torch.full((size,), NO_CLASS)
        self.register_buffer("values", torch.zeros(size, bits))
        self.register_buffer("labels", labels)
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bytes(self) -> int:
        """Memory of all buffers."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def write(self, index: Tensor, values: Tensor, labels: Tensor) -> None:
        """Replace the rows index (B,) int64 by values (B, K) and labels (B,) or (B, C), without gradient.

        Of several rows for one image, as a sampler that repeats images draws them, the last one stays.
        """
        latest = last_occurrences(index)
        rows = index[latest]
        self.values[rows] = values.detach()[latest].to(self.values.dtype)
        self.labels[rows] = labels[latest].to(self.labels.dtype)
        self.seen[rows] = True

    def counted(self, unseen: bool = False) -> Tensor | slice:
        """Return which rows count, as an index of the buffers: those seen, or all of them where `unseen` count too."""
        return slice(None) if unseen or bool(self.seen.all()) else self.seen

    def read(self, unseen: bool = False) -> tuple[Tensor, Tensor]:
        """Return values (M, K) and labels (M,) or (M, C) of the rows that count (see `counted`)."""
        rows = self.counted(unseen)
        return self.values[rows], self.labels[rows]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Weights trained on other data are tested and exported too; only training on needs rows for its own images.
        for name, buffer in list(self._buffers.items()):
            stored = state_dict.get(f"{prefix}{name}")
            if buffer is not None and stored is not None and stored.shape[1:] == buffer.shape[1:]:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class CodeBank(MemoryBank):
    """A memory bank with a discrete code for every image besides: codes float (N, K) of -1 and 1, 0 for none yet."""

    codes: Tensor

    def __init__(self, size: int, bits: int, num_classes: int, multi_label: bool) -> None:
        super().__init__(size, bits, num_classes, multi_label)
        self.register_buffer("codes", torch.zeros(size, bits))


class BankedHashing(HashingModule):
    """A hashing method that keeps a bank of all training images.

    On several ranks every rank writes the gathered batch (`gather_batch`), so that all banks are the same. The memory
    that the bank takes is said before training; one that does not fit is refused.

    Raises:
        UserError: the bank does not fit into memory, or `gather_batch` is off.
    """

    memories: ClassVar[tuple[str, ...]] = ("bank.",)
    bank_type: ClassVar[type[MemoryBank]] = MemoryBank
    cost_of_step: ClassVar[str] = ""
    """What a step computes besides pairs of batch and bank, as the end of a sentence."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        if not self.gather_batch:
            raise UserError(
                "task.gather_batch=false: the ranks' memory banks would differ; choose true, which changes nothing "
                "where one process trains"
            )
        self.bank = build_bank(self.bank_type, self.labels, self.bits)
        self._step_is_checked = False

    def setup(self, stage: str) -> None:
        """Say what the bank costs before training, and refuse one that the training device cannot hold."""
        if stage != "fit":
            return
        device = self.trainer.strategy.root_device
        if device.type == "cuda":
            check_fits(self.bank.bytes, device, bank_mends(len(self.bank), self.bits))
        say_cost(self.bank, self.bits, self.cost_of_step)

    def on_fit_start(self) -> None:
        """Refuse to train on with the bank of other data.

        Raises:
            UserError: a restored bank has rows for another number of images.
        """
        if len(self.bank) != self.labels.train_size:
            raise UserError(
                f"the checkpoint's memory bank has {len(self.bank):,} rows, and data.train has "
                f"{self.labels.train_size:,} images; go on with the data it was trained on, or train anew"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Refuse, before the first step, pairs of batch and bank that the device cannot hold.

        Raises:
            UserError: the step would not fit.
        """
        if self._step_is_checked:
            return
        images = len(batch["index"]) * self.trainer.world_size
        check_fits(step_bytes(images, len(self.bank)), self.device, "choose a smaller data.batch_size or training part")
        self._step_is_checked = True


class MemoryBankHashing(BankedHashing):
    """A hashing method whose loss compares the batch with the latest values of all training images.

    From random weights the values change faster than their copies in the bank: the losses that push most pairs apart
    then chase the common part of older values from one side to the other, and codes stay constant. The published
    figures start from ImageNet weights. `bank_from_epoch` lets the network settle on pairs of the batch first.

    Args:
        count_unseen_rows: rows of images not seen yet count as values of 0 without any class, as in the published
            code; by default they are left out.
        bank_from_epoch: before this epoch (0-based) the batch is compared with itself alone.
        shared: arguments of `HashingModule`.

    Raises:
        ValueError: the epoch is below 0.
    """

    def __init__(self, *, count_unseen_rows: bool = False, bank_from_epoch: int = 0, **shared: Any) -> None:
        super().__init__(**shared)
        if bank_from_epoch < 0:
            raise ValueError(f"task.bank_from_epoch={bank_from_epoch}: epochs are counted from 0")
        self.count_unseen_rows = count_unseen_rows
        self.bank_from_epoch = bank_from_epoch

    def on_fit_start(self) -> None:
        """Warn where random weights would chase their own older values."""
        super().on_fit_start()
        if self.bank_from_epoch == 0 and not self.backbone.pretrained.used:
            rank_zero_only(warnings.warn)(
                f"model={self.backbone.name} starts from random weights, whose values change faster than their copies "
                "in the memory bank: the first epochs may learn nothing. task.bank_from_epoch=10 compares within the "
                "batch for ten epochs first; model.pretrained=true and init_from=RUN start from trained weights",
                RunWarning,
                stacklevel=2,
            )

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Write the batch into the bank, and return `bank_loss` of the batch against it, in float32."""
        h = outputs["h"]
        self.bank.write(batch["index"], h, batch["label"])
        values, labels = self._compared_with(batch["index"])
        with full_precision(h):
            return self.bank_loss(h, batch, values, labels)

    def _compared_with(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and labels that a batch of these images is compared with, without gradient."""
        if self.current_epoch < self.bank_from_epoch:
            return self.bank.values[index], self.bank.labels[index]
        return self.bank.read(self.count_unseen_rows)

    @abstractmethod
    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and its parts of the batch's h (B, K) against the bank's values (M, K) with labels."""


def last_occurrences(index: Tensor) -> Tensor:
    """Return the place of each distinct value's last occurrence in index (B,) int64, ordered by value."""
    order = index.argsort(stable=True)
    ordered = index[order]
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[:-1] != ordered[1:]
    return order[is_last]


def build_bank(bank_type: type[MemoryBank], labels: LabelSpace, bits: int) -> MemoryBank:
    """Build an empty bank for the images trained on.

    Raises:
        UserError: it is larger than the memory that is free.
    """
    arguments = (labels.train_size, bits, labels.num_classes, labels.multi_label)
    with torch.device("meta"):
        needed = bank_type(*arguments).bytes
    check_fits(needed, torch.device("cpu"), bank_mends(labels.train_size, bits))
    return bank_type(*arguments)


def bank_mends(size: int, bits: int) -> str:
    """Return what a user can do about a bank of size rows that is too large."""
    return (
        f"the memory bank holds a row for each of {size:,} training images at task.bits={bits}: take fewer bits, a "
        "smaller training part, or a task without a bank (greedyhash, csq, hashnet, dch)"
    )


@rank_zero_only
def say_cost(bank: MemoryBank, bits: int, work: str = "") -> None:
    """Say what a bank costs: on screen, and where it is large as a warning that the record repeats.

    `work` is what a step computes besides its pairs, as the end of the sentence.
    """
    text = (
        f"Memory bank: {len(bank):,} rows of {bits} bits take {readable_bytes(bank.bytes)}, and as much in each "
        f"checkpoint; every step takes about {readable_bytes(step_bytes(1, len(bank)))} per image of the batch{work}"
    )
    if bank.bytes < NOTEWORTHY_BYTES:
        say(text)
    else:
        warnings.warn(text, RunWarning, stacklevel=2)
