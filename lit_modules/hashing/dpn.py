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


def polarization(h: Tensor, target: Tensor, margin: float = 1.0, reduction: BitReduction = "mean") -> Tensor:
    """Return max(0, margin - h * target), averaged over the batch, and over the bits or summed over them.

    h (B, K) is real, target (B, K) is -1 or 1; a row of zeros has no target and counts 0.
    """
    hinge = F.relu(margin - h * target) * target.abs()
    return hinge.mean() if reduction == "mean" else hinge.sum(dim=1).mean()


def dpn_loss(
    h: Tensor, target: Tensor, margin: float = 1.0, reduction: BitReduction = "mean", square_weight: float = 0.0
) -> dict[str, Tensor]:
    """Return polarization + square_weight * mean(h^2) as `loss`, and its two parts.

    Shapes as in `polarization`; CISiP-FIRe adds the second part, with weight 0.1.
    """
    polarized = polarization(h, target, margin, reduction)
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

    `reduction` says what the hinge's bits are: averaged, as in DeepHash-pytorch, or summed, as in CISiP-FIRe by one of
    the authors; its learning rates differ accordingly. Images of several classes take the majority vote of their
    targets, as in CSQ; an image without any class has no target. The ternary variant (DPN-T) is left out: in the
    published code it has no gradient, and a third symbol is no bit. `accuracy` is that of the nearest target.
    """

    votes: Tensor

    def __init__(
        self,
        *,
        margin: float = 1.0,
        reduction: BitReduction = "mean",
        square_weight: float = 0.0,
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
        self.update_targets = update_targets
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
            return dpn_loss(h, self.codebook(label), self.margin, self.reduction, self.square_weight)

    def on_train_epoch_end(self) -> None:
        """Replace the targets by the majority of the epoch's images of each class."""
        if self.update_targets:
            self.codebook.signs.copy_(updated_targets(self.codebook.signs, self.votes))
            self.votes.zero_()
