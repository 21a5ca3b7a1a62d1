"""GML: maximise the geometric mean of the classes' mean probabilities, so that no class is left behind.

Loss: ((1/|S|) Σ_{c in S} (-log p̄_c)^p)^(1/p), p̄_c the mean over class c in the batch of softmax(z + log n)_c

Du and Wu, "No One Left Behind: Improving the Worst Categories in Long-Tailed Learning", CVPR 2023.
https://arxiv.org/abs/2303.03630. The power of the mean: github.com/yuhao318/BTM methods.py, of the same group.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.retrained_classifier import EnsembledClassifier


def class_mean_log_probabilities(log_p: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return log mean_{i in c} p_i (C,) of log p (B,) in (-inf, 0] by label (B,), and which classes there are (C,).

    Computed by logarithms; the value of an absent class is 0.
    """
    present = torch.bincount(label, minlength=num_classes)
    members = F.one_hot(label, num_classes).bool()
    masked = log_p.unsqueeze(1).expand(-1, num_classes).masked_fill(~members, -math.inf)
    # a column of -inf alone would have no gradient but NaN
    masked = masked.masked_fill(present == 0, 0.0)
    means = torch.logsumexp(masked, dim=0) - present.clamp(min=1).to(log_p.dtype).log()
    return means.masked_fill(present == 0, 0.0), present > 0


def gml_loss(logits: Tensor, label: Tensor, class_counts: Tensor, power: float = 1.0, floor: float = 0.0) -> Tensor:
    """Return ((1/|S|) sum_{c in S} (-log pbar_c)^power)^(1/power) over the classes S of the batch.

    pbar_c is the mean over the batch's images of class c of the balanced softmax's probability of c. At power 1 this is
    -log of the geometric mean of the pbar_c; towards infinity only the worst class counts.

    Args:
        logits: (B, C).
        label: (B,).
        class_counts: (C,), above 0.
        power: 1 or more, `inf` included.
        floor: an image's probability below it counts as it and has no gradient; 1e-5 in the authors' group's code,
            which does not compute by logarithms.
    """
    log_p = F.log_softmax(logits + log_prior(class_counts, logits), dim=1).gather(1, label.unsqueeze(1)).squeeze(1)
    if floor > 0:
        log_p = log_p.clamp(min=math.log(floor))
    means, present = class_mean_log_probabilities(log_p, label, logits.shape[1])
    surprise = -means[present]
    if math.isinf(power):
        return surprise.max()
    return torch.linalg.vector_norm(surprise, ord=power) / len(surprise) ** (1 / power)


class GML(EnsembledClassifier):
    """GML; the batch size decides which classes a mean is taken over, so all ranks' images are one batch.

    Raises:
        ValueError: `power` is below 1, or `floor` outside [0, 1).
    """

    takes_weights: ClassVar[bool] = False

    def __init__(self, *, power: float = 1.0, floor: float = 0.0, **shared: Any) -> None:
        super().__init__(**shared)
        if not power >= 1:
            raise ValueError(f"task.power must be 1 or more, not {power}")
        if not 0 <= floor < 1:
            raise ValueError(f"task.floor must lie in [0, 1), not {floor}")
        self.power = power
        self.floor = floor

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the generalised geometric-mean loss."""
        logits = outputs["logits"]
        return {"loss": gml_loss(logits, batch["label"], self.counts(logits), self.power, self.floor)}
