"""DPN: a hinge pushes each bit beyond a margin on the side of its class's target vector.

Loss: mean max(0, m - h t_y), t a random target of -1 and 1 per class

Fan, Ng, Ju, Zhang and Chan, "Deep Polarized Network for Supervised Learning of Accurate Binary Hashing Codes",
IJCAI 2020.
https://www.ijcai.org/Proceedings/2020/115
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule, full_precision
from lit_modules.hashing.codebook import Codebook
from retrieval.centres import CentreRule

BitReduction = Literal["mean", "sum_over_bits"]
SeveralLabels = Literal["majority", "sum"]


def hinge_to_target(h: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Return max(0, margin - h * target) for each bit, (B, K).

    h (B, K) is real, target (B, K) is -1 or 1; a row of zeros has no target and counts 0.
    """
    return F.relu(margin - h * target) * target.abs()


def hinge_to_classes(h: Tensor, targets: Tensor, label: Tensor, margin: float = 1.0) -> Tensor:
    """Return max(0, margin - h * t_c) for each bit, summed over the classes c of a sample, (B, K).

    h (B, K) is real, targets (C, K) are -1 or 1, label (B, C) is multi-hot; kamwoh/DPN scripts/train_hashing.py.
    """
    present = (label > 0).to(h.dtype)
    upwards, downwards = (present @ side.to(h.dtype) for side in (targets > 0, targets < 0))
    return upwards * F.relu(margin - h) + downwards * F.relu(margin + h)


def dpn_loss(
    h: Tensor, hinge: Tensor, reduction: BitReduction = "mean", square_weight: float = 0.0
) -> dict[str, Tensor]:
    """Return the hinge, a mean over the batch, plus square_weight * mean(h^2) as `loss`, and its two parts.

    h (B, K) and hinge (B, K) are real. Over the bits the hinge is averaged, or summed as in the authors' code.
    """
    polarized = hinge.mean() if reduction == "mean" else hinge.sum(dim=1).mean()
    square = h.square().mean()
    return {"loss": polarized + square_weight * square, "polarization": polarized, "square": square}


def target_votes(h: Tensor, label: Tensor, num_classes: int, margin: float) -> Tensor:
    """Return for each class and bit the samples whose h is beyond the margin, +1 above and -1 below, summed (C, K).

    h is (B, K), label (B,) or multi-hot (B, C); a sample of several classes votes in each.
    """
    votes = h.sign() * (h.abs() > margin)
    present = F.one_hot(label, num_classes) if label.ndim == 1 else label > 0
    return present.to(h.dtype).T @ votes


def updated_targets(targets: Tensor, votes: Tensor) -> Tensor:
    """Return the side of the majority for each class and bit (C, K), and the old target where there is none.

    The published code takes the sign of the votes alone, which leaves zeros, bits without a side, where they tie.
    """
    return torch.where(votes == 0, targets, votes.sign())


class DPN(HashingModule):
    """DPN with random targets, which `update_targets` replaces after every epoch by what its images became (DPN-A).

    An image without any class has no target. The ternary variant (DPN-T) is left out: in the published code it has no
    gradient, and a third symbol is no bit. `accuracy` is that of the nearest target.

    Args:
        margin: m of the paper.
        reduction: the hinge's bits are averaged, as in DeepHash-pytorch, or summed, as in the authors' code
            (github.com/kamwoh/DPN) and in CISiP-FIRe; learning rates differ accordingly.
        square_weight: of mean(h^2), 0 in the authors' code, 0.1 in CISiP-FIRe.
        several_labels: an image of several classes takes the `majority` vote of their targets, as in CSQ, or the `sum`
            of its hinges towards each of them, as in the authors' code.
        hash_layer_bias: whether the hash layer has a bias, which the authors' has not.
        update_targets: DPN-A.
        centres: rule of the targets, see `Codebook`.
        share: share of -1 in a random target.
        seed: of the targets and of the tie breaker.
        shared: arguments of `HashingModule`.

    Raises:
        ValueError: targets are updated from the images of one rank alone.
    """

    votes: Tensor

    def __init__(
        self,
        *,
        margin: float = 1.0,
        reduction: BitReduction = "mean",
        square_weight: float = 0.0,
        several_labels: SeveralLabels = "majority",
        hash_layer_bias: bool = True,
        update_targets: bool = False,
        centres: CentreRule = "half",
        share: float = 0.5,
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if update_targets and not self.gather_batch:
            raise ValueError(
                "task.update_targets=true with task.gather_batch=false: the ranks' targets would differ; "
                "choose task.gather_batch=true, which changes nothing where one process trains"
            )
        self.margin = margin
        self.reduction: BitReduction = reduction
        self.square_weight = square_weight
        self.sums_over_classes = several_labels == "sum" and self.labels.multi_label
        self.update_targets = update_targets
        if not hash_layer_bias:
            self.hash_layer.register_parameter("bias", None)
        self.codebook = Codebook(self.labels.num_classes, self.bits, seed, centres, share)
        self.register_buffer("votes", torch.zeros_like(self.codebook.signs))

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), real and unbounded, and `logits` (B, C), its cosines with the targets."""
        h = self.hash_values(features)
        return {"h": h, "logits": self.codebook.cosine(h)}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the polarization loss and its parts; count the batch's votes where targets are updated."""
        h, label = outputs["h"], batch["label"]
        with full_precision(h):
            if self.update_targets:
                self.votes += target_votes(h.detach(), label, self.labels.num_classes, self.margin)
            return dpn_loss(h, self._hinge(h, label), self.reduction, self.square_weight)

    def _hinge(self, h: Tensor, label: Tensor) -> Tensor:
        if self.sums_over_classes:
            return hinge_to_classes(h, self.codebook.signs, label, self.margin)
        return hinge_to_target(h, self.codebook(label), self.margin)

    def on_train_epoch_end(self) -> None:
        """Replace the targets by the majority of the epoch's images of each class."""
        if self.update_targets:
            self.codebook.signs.copy_(updated_targets(self.codebook.signs, self.votes))
            self.votes.zero_()
