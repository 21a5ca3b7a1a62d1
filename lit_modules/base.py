"""What every task shares: encode -> head -> loss, the optimizer, the names of what is logged. It knows no method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.optimization import Optimization, learning_rate_scheduler, parameter_groups
from lit_modules.precision import restore_state

Batch = Mapping[str, Tensor]
Outputs = dict[str, Tensor]

# What a network reads of a batch; losses have no use for it.
INPUTS = ("image", "views", "feature")


@dataclass(frozen=True)
class LabelSpace:
    """What a task must know of its data's labels.

    `class_counts` are the images actually trained on per class; `train_size` is their number; `multi_label` says that
    labels are multi-hot (B, C) instead of class numbers (B,).
    """

    num_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    multi_label: bool
    train_size: int


class TaskModule(L.LightningModule):
    """A backbone, a head and a loss.

    A method says what its `head` computes and what its `loss` is; both get plain tensors. State that lasts longer than
    a step is kept in buffers, so that a run resumes exactly.

    `gather_batch` is for losses that compare the samples of a batch with each other: on several ranks the loss then
    sees the batch of all ranks, with gradient, as one process with the whole batch would. Losses that judge each sample
    by itself need it not: averaging the ranks' gradients is the same.

    `fits_at_once` says that nothing is trained in steps: all there is to learn is computed in one pass. `memories` are
    beginnings of the names of buffers that hold samples of the training part, which other data cannot take over.
    """

    fits_at_once: ClassVar[bool] = False
    memories: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, backbone: Backbone, labels: LabelSpace, optimization: Optimization, gather_batch: bool = False
    ) -> None:
        super().__init__()
        self.gather_batch = gather_batch
        self.backbone = backbone
        self.labels = labels
        self.optimization = optimization
        self.exact_metrics: dict[str, float] = {}
        self.is_backbone_frozen = False

    @abstractmethod
    def head(self, features: Tensor) -> Outputs:
        """Return what the loss and the metrics need, from features (B, D)."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss to minimise under the key `loss`, and its parts under their own names, each a scalar."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskModule:
        # trainer.precision=bf16-true casts all there is; banks, queues, codebooks and batch norms stay in float32
        super()._apply(fn, recurse)
        backbones = (module for module in self.modules() if module is self.backbone or isinstance(module, Backbone))
        inside: set[nn.Module] = {module for backbone in backbones for module in backbone.modules()}
        for module in self.modules():
            if module not in inside:
                restore_state(module)
        return self

    def encode(self, batch: Batch) -> Tensor:
        """Return features (B, D) of the batch's images (B, 3, H, W), or those that it carries from a cache."""
        if "feature" in batch:
            return batch["feature"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_backbone_frozen):
            features: Tensor = self.backbone(batch["image"])
        return features

    def freeze_backbone(self) -> None:
        """Keep the backbone as it is: no gradient, and its batch norms in evaluation mode."""
        self.is_backbone_frozen = True
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TaskModule:
        """Set the mode of all but a frozen backbone."""
        super().train(mode)
        if self.is_backbone_frozen:
            self.backbone.eval()
        return self

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Be told, before training, which parameters of the head `init_from` loaded, and what of the file was left.

        Most methods need not know.
        """

    def forward(self, batch: Batch) -> Outputs:
        """Return the head's outputs for a batch."""
        return self.head(self.encode(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch and log it with its parts as `train/NAME`, averaged over the epoch."""
        outputs = self(batch)
        if self.gather_batch and self.trainer.world_size > 1:
            outputs = self._over_ranks(outputs)
            batch = self._over_ranks({name: tensor for name, tensor in batch.items() if name not in INPUTS})
        losses = self.loss(outputs, batch)
        named = {f"train/{name}": value.detach() for name, value in losses.items()}
        size = len(batch["index"])
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return losses["loss"]

    def _over_ranks(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each tensor (B, ...) of this rank as (B * ranks, ...) of all, in one process's order, with gradient.

        Ranks take turns in the order of an epoch (`datamodules.sampling.order.TrainingBatches`): samples interleave.

        A gathered gradient is the sum over ranks, which DDP's mean over ranks turns into the whole batch's own.
        """
        return {
            name: cast(Tensor, self.all_gather(tensor, sync_grads=tensor.requires_grad)).transpose(0, 1).flatten(0, 1)
            for name, tensor in tensors.items()
        }

    def log_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Log `stage/NAME` for each metric, and keep it in float64: Lightning's own log would round it to float32.

        A validation belongs to the step that was just made, as the epoch's training means do, so both are one row; the
        test comes one step after the last.
        """
        named = {f"{stage}/{name}": float(value) for name, value in metrics.items()}
        self.exact_metrics.update(named)
        self.log_dict(named, logger=False)
        step = max(self.global_step - (stage == "val"), 0)
        for logger in self.loggers:
            logger.log_metrics({**named, "epoch": self.current_epoch}, step=step)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters outside the backbone that the method exempts from weight decay."""
        return set()

    def trained_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; a method may give parts of itself learning rates of their own."""
        return parameter_groups(self, self.backbone, self.optimization, self.no_weight_decay())

    def configure_optimizers(self) -> Any:
        """Return the optimizer over parameter groups and the schedule over this run's steps or epochs."""
        settings = self.optimization
        optimizer = settings.optimizer(self.trained_groups())
        interval = settings.schedule.interval
        steps = int(self.trainer.estimated_stepping_batches)
        total = steps if interval == "step" else (self.trainer.max_epochs or 1)
        scheduler = learning_rate_scheduler(optimizer, settings.schedule, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}
