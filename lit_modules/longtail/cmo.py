"""CMO: boxes of images drawn from rare classes pasted into the others, whose contexts they then have.

Loss: λ CE(z, y) + (1 - λ) CE(z, y'), λ the share of the background's area, y' drawn with classes alike

Park, Hong, Heo, Yun and Choi, "The Majority Can Help the Minority: Context-Rich Minority Oversampling for Long-Tailed
Classification", CVPR 2022. https://arxiv.org/abs/2112.00412
"""

from __future__ import annotations

from torch import Tensor

from lit_modules.base import Batch
from lit_modules.blending.batch import FOREGROUND
from lit_modules.longtail.ce import CrossEntropy
from records.errors import UserError


class CMO(CrossEntropy):
    """Cross-entropy on images with pasted foregrounds, which the data draw by class (`data.foreground`).

    Every other loss takes the same images: `task.cutmix_alpha=1 data.foreground=balanced`.

    Raises:
        UserError: the data draw no foregrounds.
    """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; its own images would make plain CutMix of it."""
        if FOREGROUND not in batch:
            raise UserError(
                "task=cmo pastes images that are drawn by class, and the data draw none: set data.foreground=balanced, "
                "and cache_features=false where features are cached; for plain CutMix: task=ce task.cutmix_alpha=1"
            )
        return super().training_step(batch, batch_idx)
