"""Stops a run before a non-finite loss or gradient reaches the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors

from records.atomic_file import write_json
from records.errors import UserError

SMALLEST_SCALE = 2.0**-10
"""Below this a loss scale has collapsed: fp16's smallest normal number times it is far from any gradient."""


class FiniteGuard(L.Callback):
    """Check loss and gradient norm before every update, on all ranks together.

    A non-finite one stops every rank before its update (`stop`), so the last checkpoint is a good one; or the update is
    left out and counted as `train/skipped_steps` (`skip`), and buffers (batch-norm statistics, memory banks) are what
    they were before its batches. The sample ids of the batches behind the update are written to `nonfinite.json`: those
    of the ranks whose loss is non-finite, or of all ranks where only the gradient is, which they share. Under fp16
    infinite gradients are the loss scaler's normal work: its own skips are counted as `train/scaler_skips`, and only a
    collapsed scale stops.

    Args:
        directory: where nonfinite.json is written.
        on_nonfinite: `stop` or `skip`.

    Raises:
        UserError: a non-finite loss or gradient under `stop`, or a collapsed loss scale.
    """

    def __init__(self, directory: str, on_nonfinite: Literal["stop", "skip"] = "stop") -> None:
        self.file = Path(directory) / "nonfinite.json"
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self.scaler_skips = 0
        self._samples: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._buffers: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Remember which samples the coming update is made of, and the buffers that it would change."""
        if self.on_nonfinite == "skip" and not self._samples:
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        self._samples.append(batch["index"])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Remember the loss; it is looked at once per update, not once per batch."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Judge the update, and stop or leave it out."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        loss_finite = torch.stack(self._losses).isfinite().all()
        finite = loss_finite & torch.nn.utils.get_total_norm(gradients).isfinite()
        samples, self._samples, self._losses = torch.cat(self._samples), [], []
        if self._everywhere(trainer, finite):
            return
        losses_finite = self._everywhere(trainer, loss_finite)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and losses_finite:
            self._count_scaler_skip(float(scaler.get_scale()))
            return
        is_behind = losses_finite or not loss_finite
        self._report(trainer, losses_finite, _of_all_ranks(trainer, samples if is_behind else samples[:0]))
        if self.on_nonfinite == "stop":
            what = "gradient" if losses_finite else "loss"
            raise UserError(
                f"the {what} became infinite or NaN in epoch {trainer.current_epoch}, step {trainer.global_step}; "
                f"nothing was updated, and the last checkpoint is good. The samples are in {self.file}. "
                "Try a smaller optim.lr, trainer.gradient_clip_val=1, trainer.precision=32-true, or leave such "
                "updates out: trainer.on_nonfinite=skip"
            )
        self.skipped += 1
        self._restore_buffers(pl_module)
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what was left out so far, where anything was."""
        counts = {"train/skipped_steps": self.skipped, "train/scaler_skips": self.scaler_skips}
        pl_module.log_dict({name: float(count) for name, count in counts.items() if count})

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, which go on when a run resumes."""
        return {"skipped": self.skipped, "scaler_skips": self.scaler_skips}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]
        self.scaler_skips = state_dict["scaler_skips"]

    @torch.no_grad()
    def _restore_buffers(self, pl_module: L.LightningModule) -> None:
        for name, buffer in pl_module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])

    @staticmethod
    def _everywhere(trainer: L.Trainer, here: Tensor) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(here), all=True)

    def _count_scaler_skip(self, scale: float) -> None:
        self.scaler_skips += 1
        if scale < SMALLEST_SCALE:
            raise UserError(
                f"the fp16 loss scale collapsed to {scale:g} after {self.scaler_skips} skipped updates; "
                "use trainer.precision=bf16-mixed or 32-true"
            )

    def _report(self, trainer: L.Trainer, losses_finite: bool, samples: list[int]) -> None:
        if trainer.is_global_zero:
            content = {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "what": "gradient" if losses_finite else "loss",
                "samples": samples,
                "count": self.skipped + 1,
            }
            write_json(self.file, content)


def _of_all_ranks(trainer: L.Trainer, samples: Tensor) -> list[int]:
    """Return the sample ids (N,) int64 of every rank, in rank order; each rank may have another number."""
    gathered = gather_all_tensors(samples) if trainer.world_size > 1 else [samples]
    return [int(sample) for sample in torch.cat(gathered)]
