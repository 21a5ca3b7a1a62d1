"""Encodings written while they are made: memory holds one block of images at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from records.errors import UserError
from retrieval.encodings import ARRAYS, Block, EncodingPlan, write_block


class EncodingWriter(L.Callback):
    """Collects the batches of a block, which come in order, and writes the block when it is whole.

    Args:
        folder: of the encodings.
        plan: what is encoded.
        keep: which of `values` and `features` are kept.
    """

    def __init__(self, folder: Path, plan: EncodingPlan, keep: tuple[str, ...] = ARRAYS) -> None:
        self.folder = folder
        self.plan = plan
        self.keep = keep
        self._batches: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in one batch, and write its block where it is the last of it."""
        kept = {name: outputs[name].cpu() for name in self.keep if name in outputs}
        self._batches.append({"index": batch["index"].cpu(), "reason": batch["reason"], **kept})
        number = int(batch["index"][0]) // self.plan.block_size
        if int(batch["index"][-1]) == self.plan.positions(number)[-1]:
            write_block(self.folder, number, _joined(self._batches))
            self._batches = []


def _joined(batches: list[dict[str, Any]]) -> Block:
    index = torch.cat([batch["index"] for batch in batches]).numpy()
    reasons = [reason for batch in batches for reason in batch["reason"]]
    readable = np.array([not reason for reason in reasons])
    arrays = {name: _rows([batch[name] for batch in batches], readable) for name in ARRAYS if name in batches[0]}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"the network's {name} are NaN or infinite: its weights diverged in training")
    return Block(
        positions=index[readable],
        values=arrays.get("values"),
        features=arrays.get("features"),
        unreadable={int(place): reason for place, reason in zip(index, reasons, strict=True) if reason},
    )


def _rows(tensors: list[Tensor], kept: np.ndarray) -> np.ndarray:
    return torch.cat(tensors).numpy()[kept]
