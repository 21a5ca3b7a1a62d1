"""Mixup: images blended in pairs, judged against the labels of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lit_modules.base import Batch

PARTNER_LABEL = "partner_label"
OWN_SHARE = "own_share"

# Last entry of a seed: NumPy takes seeds that differ by zeros at their end for one.
SHARE_STREAM, PARTNER_STREAM = 1, 2


def draw_share(alpha: float, seed: int, epoch: int, step: int) -> float:
    """Draw lambda from Beta(alpha, alpha), a pure function of (seed, epoch, step): the same on every rank."""
    return float(np.random.default_rng([seed, epoch, step, SHARE_STREAM]).beta(alpha, alpha))


def draw_partners(size: int, seed: int, epoch: int, step: int, rank: int) -> Tensor:
    """Draw a permutation of 0 .. size - 1, int64 (size,): a pure function of (seed, epoch, step, rank)."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, step, rank, PARTNER_STREAM]).permutation(size))


def mix(batch: Batch, share: float, partners: Tensor, keys: Sequence[str] = ("image", "feature")) -> dict[str, Tensor]:
    """Blend each sample with its partner: share * x + (1 - share) * x[partners].

    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.)

    Args:
        batch: `label` (B,), and an `image` (B, 3, H, W), uint8 or float in [0, 1], or a `feature` (B, D).
        share: lambda, in [0, 1].
        partners: int64 (B,), positions in the batch.
        keys: what is blended of what the batch has.

    Returns:
        The batch with blended floats, `partner_label` (B,), and `own_share` (B,), lambda for every sample.
    """
    mixed = dict(batch)
    partners = partners.to(batch["label"].device)
    for key in keys:
        if key in batch:
            own = batch[key] if batch[key].is_floating_point() else batch[key].float() / 255
            mixed[key] = share * own + (1 - share) * own[partners]
    mixed[PARTNER_LABEL] = batch["label"][partners]
    mixed[OWN_SHARE] = torch.full(batch["label"].shape, share, device=batch["label"].device)
    return mixed


def dominant_label(batch: Batch) -> Tensor:
    """Return the label (B,) of what most of each image is: the partner's where its share is the larger one."""
    if PARTNER_LABEL not in batch:
        return batch["label"]
    return torch.where(batch[OWN_SHARE] >= 0.5, batch["label"], batch[PARTNER_LABEL])


def two_target_loss(own: dict[str, Tensor], partner: dict[str, Tensor], share: Tensor) -> dict[str, Tensor]:
    """Return share * own + (1 - share) * partner for each of the loss and its parts, share a scalar in [0, 1]."""
    return {name: share * value + (1 - share) * partner[name] for name, value in own.items()}
