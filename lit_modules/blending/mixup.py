"""Mixup: two images laid over each other."""

from __future__ import annotations

from torch import Tensor

from lit_modules.base import Batch
from lit_modules.blending.labels import with_partner

BLENDED = ("image", "feature")
"""What is blended of what a batch has."""


def mix(batch: Batch, partner: Batch, share: float) -> dict[str, Tensor]:
    """Blend each sample with its partner: share * x + (1 - share) * x'.

    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.)

    Args:
        batch: `label` (B,), and an `image` (B, 3, H, W), uint8 or float in [0, 1], or a `feature` (B, D).
        partner: the same keys for the B partners.
        share: lambda, in [0, 1].

    Returns:
        The batch with blended floats, `partner_label` (B,), and `own_share` (B,), lambda for every sample.
    """
    blended = {
        key: share * _as_float(batch[key]) + (1 - share) * _as_float(partner[key]) for key in BLENDED if key in batch
    }
    return with_partner({**batch, **blended}, partner["label"], share)


def _as_float(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.float() / 255
