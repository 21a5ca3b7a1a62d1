"""The two labels of a blended image: where a batch holds them, and what a loss makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_modules.base import Batch

PARTNER_LABEL = "partner_label"
OWN_SHARE = "own_share"


def with_partner(batch: Batch, partner_label: Tensor, share: float) -> dict[str, Tensor]:
    """Return the batch with `partner_label` (B,) and `own_share` (B,), the share in [0, 1] of every own image."""
    label = batch["label"]
    return {**batch, PARTNER_LABEL: partner_label, OWN_SHARE: torch.full(label.shape, share, device=label.device)}


def dominant_label(batch: Batch) -> Tensor:
    """Return the label (B,) of what most of each image is: the partner's where its share is the larger one."""
    if PARTNER_LABEL not in batch:
        return batch["label"]
    return torch.where(batch[OWN_SHARE] >= 0.5, batch["label"], batch[PARTNER_LABEL])


def two_target_loss(own: dict[str, Tensor], partner: dict[str, Tensor], share: Tensor) -> dict[str, Tensor]:
    """Return share * own + (1 - share) * partner for each of the loss and its parts, share a scalar in [0, 1]."""
    return {name: share * value + (1 - share) * partner[name] for name, value in own.items()}
