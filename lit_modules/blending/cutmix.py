"""CutMix: a box of one image pasted into another."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from lit_modules.base import Batch
from lit_modules.blending.labels import with_partner

Box = tuple[int, int, int, int]


def draw_box(height: int, width: int, alpha: float, generator: np.random.Generator) -> Box:
    """Draw top, bottom, left, right of a box that covers 1 - Beta(alpha, alpha) of an image, cut off at its edges."""
    side = math.sqrt(1 - generator.beta(alpha, alpha))
    middle = generator.integers(height), generator.integers(width)
    half = int(height * side) // 2, int(width * side) // 2
    top, left = max(0, int(middle[0]) - half[0]), max(0, int(middle[1]) - half[1])
    return top, min(height, int(middle[0]) + half[0]), left, min(width, int(middle[1]) + half[1])


def paste_box(batch: Batch, partner: Batch, box: Box) -> dict[str, Tensor]:
    """Return the batch with a box of each image replaced by its partner's; shares are those of the area.

    (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019.)

    Args:
        batch: `image` (B, 3, H, W), `label` (B,).
        partner: the same keys for the B partners.
        box: top, bottom, left, right in pixels.

    Returns:
        The batch with new images, `partner_label` (B,) and `own_share` (B,).
    """
    top, bottom, left, right = box
    image = batch["image"].clone()
    image[:, :, top:bottom, left:right] = partner["image"][:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (image.shape[-2] * image.shape[-1])
    return with_partner({**batch, "image": image}, partner["label"], share)
