"""Mixup or CutMix of a batch: which of them, how much and with whom is a function of (seed, epoch, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lit_modules.base import Batch
from lit_modules.longtail.mixup import OWN_SHARE, PARTNER_LABEL, draw_partners, draw_share, mix

# Last entry of a seed, beside those of `lit_modules.longtail.mixup`.
CHOICE_STREAM, BOX_STREAM = 3, 4


@dataclass(frozen=True)
class Blending:
    """Mixup (Zhang et al., ICLR 2018), CutMix (Yun et al., ICCV 2019), or one of them at even chances in each step.

    Args:
        mixup_alpha: of Beta(alpha, alpha), for the share of an image; 0 for no mixup.
        cutmix_alpha: of Beta(alpha, alpha), for the area of an image that stays; 0 for no CutMix.
        seed: of all of it.

    Raises:
        ValueError: an alpha is below 0.
    """

    mixup_alpha: float
    cutmix_alpha: float
    seed: int

    def __post_init__(self) -> None:
        for key in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, key) < 0:
                raise ValueError(f"task.{key} is {getattr(self, key)}; it must be 0 (none) or more")

    def __call__(self, batch: Batch, epoch: int, step: int, rank: int) -> Batch:
        """Return the batch, or a blended one with `partner_label` (B,) and `own_share` (B,)."""
        if not self.mixup_alpha and not self.cutmix_alpha:
            return batch
        partners = draw_partners(len(batch["label"]), self.seed, epoch, step, rank)
        if self._pastes(epoch, step):
            return paste_box(batch, self._draw_box(batch["image"].shape[-2:], epoch, step), partners)
        return mix(batch, draw_share(self.mixup_alpha, self.seed, epoch, step), partners)

    def _pastes(self, epoch: int, step: int) -> bool:
        if not self.mixup_alpha or not self.cutmix_alpha:
            return bool(self.cutmix_alpha)
        return bool(self._generator(epoch, step, CHOICE_STREAM).random() < 0.5)

    def _draw_box(self, size: torch.Size, epoch: int, step: int) -> tuple[int, int, int, int]:
        generator = self._generator(epoch, step, BOX_STREAM)
        return draw_box(int(size[0]), int(size[1]), self.cutmix_alpha, generator)

    def _generator(self, epoch: int, step: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, step, stream])


def draw_box(height: int, width: int, alpha: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, bottom, left, right of a box that covers 1 - Beta(alpha, alpha) of an image, cut off at its edges."""
    side = math.sqrt(1 - generator.beta(alpha, alpha))
    middle = generator.integers(height), generator.integers(width)
    half = int(height * side) // 2, int(width * side) // 2
    top, left = max(0, int(middle[0]) - half[0]), max(0, int(middle[1]) - half[1])
    return top, min(height, int(middle[0]) + half[0]), left, min(width, int(middle[1]) + half[1])


def paste_box(batch: Batch, box: tuple[int, int, int, int], partners: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the batch with a box of each image replaced by its partner's; shares are those of the area.

    Args:
        batch: `image` (B, 3, H, W), `label` (B,).
        box: top, bottom, left, right in pixels.
        partners: int64 (B,), positions in the batch.
    """
    top, bottom, left, right = box
    image, label = batch["image"].clone(), batch["label"]
    partners = partners.to(label.device)
    image[:, :, top:bottom, left:right] = batch["image"][partners, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (image.shape[-2] * image.shape[-1])
    return {
        **batch,
        "image": image,
        PARTNER_LABEL: label[partners],
        OWN_SHARE: torch.full(label.shape, share, device=label.device),
    }
