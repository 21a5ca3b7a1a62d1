"""Which images of a step are blended, how, how much and with whom: a function of (seed, epoch, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_modules.base import Batch
from lit_modules.blending.cutmix import draw_box, paste_box
from lit_modules.blending.mixup import BLENDED, mix
from records.errors import UserError

FOREGROUND = "foreground"
FOREGROUND_LABEL = "foreground_label"
"""Where a batch holds images drawn to be pasted (`data.foreground`), and their labels."""

# Last entry of a seed: NumPy takes seeds that differ by zeros at their end for one.
SHARE_STREAM, PARTNER_STREAM, CHOICE_STREAM, BOX_STREAM, CHANCE_STREAM = 1, 2, 3, 4, 5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Blending:
    """Mixup (Zhang et al., ICLR 2018), CutMix (Yun et al., ICCV 2019), or one of them at even chances in each step.

    A partner is another image of the batch, or where the batch brings images drawn for it (`foreground`) one of those,
    as in CMO (Park et al., CVPR 2022). The batches of several ranks are one batch, so any number of ranks blends alike.

    Args:
        mixup_alpha: of Beta(alpha, alpha), for the share of an image; 0 for no mixup.
        cutmix_alpha: of Beta(alpha, alpha), for the area of an image that stays; 0 for no CutMix.
        probability: share of the steps that blend, in (0, 1].
        plain_share: share of the epochs at the beginning, and as many at the end, that do not, in [0, 0.5).
        seed: of all of it.

    Raises:
        ValueError: a number is out of range.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    plain_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, key) < 0:
                raise ValueError(f"task.{key} is {getattr(self, key)}; it must be 0 (none) or more")
        if not 0 < self.probability <= 1:
            raise ValueError(f"task.blend_probability is {self.probability}; it must lie in (0, 1]")
        if not 0 <= self.plain_share < 0.5:
            raise ValueError(f"task.plain_share is {self.plain_share}; it must lie in [0, 0.5)")

    @property
    def is_on(self) -> bool:
        """Whether any step blends."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def happens(self, epoch: int, step: int, progress: float = 0.0) -> bool:
        """Tell whether this step blends; `progress` is the share of the epochs done at the start of this one."""
        if not self.is_on:
            return False
        inside = self.plain_share + _ROUNDING < progress < 1 - self.plain_share - _ROUNDING
        if self.plain_share and not inside:
            return False
        return self.probability == 1 or bool(self._generator(epoch, step, CHANCE_STREAM).random() < self.probability)

    def partners(self, size: int, epoch: int, step: int) -> Tensor:
        """Draw the partner of each of `size` images, a permutation of 0 .. size - 1, int64 (size,)."""
        return torch.from_numpy(self._generator(epoch, step, PARTNER_STREAM).permutation(size))

    def blend(self, batch: Batch, partner: Batch, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the batch blended with its partners, with `partner_label` (B,) and `own_share` (B,).

        Args:
            batch: `label` (B,), and `image` (B, 3, H, W) or `feature` (B, D).
            partner: the same of B partners.
            epoch: 0-based epoch.
            step: 0-based step of the epoch.

        Raises:
            UserError: CutMix of features.
        """
        if not self.pastes(epoch, step):
            return mix(batch, partner, self.share(epoch, step))
        if "image" not in batch:
            raise UserError(
                f"task.cutmix_alpha={self.cutmix_alpha}: a box is cut out of images, and cached features have none; "
                "set cache_features=false, or task.cutmix_alpha=0"
            )
        height, width = batch["image"].shape[-2:]
        return paste_box(
            batch, partner, draw_box(height, width, self.cutmix_alpha, self._generator(epoch, step, BOX_STREAM))
        )

    def share(self, epoch: int, step: int) -> float:
        """Draw mixup's lambda from Beta(alpha, alpha)."""
        return float(self._generator(epoch, step, SHARE_STREAM).beta(self.mixup_alpha, self.mixup_alpha))

    def pastes(self, epoch: int, step: int) -> bool:
        """Tell whether a step that blends does so by CutMix."""
        if not self.mixup_alpha or not self.cutmix_alpha:
            return bool(self.cutmix_alpha)
        return bool(self._generator(epoch, step, CHOICE_STREAM).random() < 0.5)

    def _generator(self, epoch: int, step: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, step, stream])


NO_BLENDING = Blending()


def samples(batch: Batch) -> dict[str, Tensor]:
    """Return what a batch holds of its samples for another one to be blended with."""
    return {key: batch[key] for key in (*BLENDED, "label") if key in batch}


def foreground(batch: Batch) -> dict[str, Tensor]:
    """Return the images drawn to be pasted, as the samples they are."""
    return {"image": batch[FOREGROUND], "label": batch[FOREGROUND_LABEL]}


def without_foreground(batch: Batch) -> dict[str, Tensor]:
    """Return the batch without the images drawn to be pasted."""
    return {key: value for key, value in batch.items() if key not in (FOREGROUND, FOREGROUND_LABEL)}
