"""SADE: three experts, trained for a long-tailed, a uniform and an inversely long-tailed test distribution.

Loss: cross-entropy of three experts: of z, of z + log π, of z + log π - τ log π̄ with the prior reversed

Zhang, Hooi, Hong and Feng, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition",
NeurIPS 2022. https://arxiv.org/abs/2107.09249

The prediction is the mean of the experts. The weights that the paper learns on unlabelled test images are not
part of it: a skewed test part is judged by the plain mean.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.experts import ExpertModule

EXPERTS = 3


def reversed_by_rank(values: Tensor) -> Tensor:
    """Return the values (C,) with the largest in the place of the smallest, the second largest in that of the ..."""
    order = values.argsort(stable=True)
    reversed_values = torch.empty_like(values)
    reversed_values[order] = values[order.flip(0)]
    return reversed_values


def expert_shifts(class_counts: Tensor, like: Tensor, tau: float = 2.0) -> Tensor:
    """Return what is added to the logits of the three experts in training (3, C), in the type of `like`.

    0 for the long-tailed expert, log pi for the uniform one, log pi - tau log pi' for the inverse one, pi' being the
    prior reversed by rank.
    """
    prior = log_prior(class_counts, like)
    return torch.stack([torch.zeros_like(prior), prior, prior - tau * reversed_by_rank(prior)])


def sade_loss(expert_logits: Tensor, label: Tensor, class_counts: Tensor, tau: float = 2.0) -> dict[str, Tensor]:
    """Return the sum of the experts' cross-entropies as `loss`, and each: `forward`, `uniform`, `backward`.

    expert_logits is (B, 3, C), label (B,), class_counts (C,) above 0.
    """
    shifted = expert_logits + expert_shifts(class_counts, expert_logits, tau)
    forward, uniform, backward = (F.cross_entropy(logits, label) for logits in shifted.unbind(1))
    return {"loss": forward + uniform + backward, "forward": forward, "uniform": uniform, "backward": backward}


class SADE(ExpertModule):
    """Three experts with skills of their own; evaluation takes the mean of their logits, as under a uniform test prior.

    Raises:
        ValueError: another number of experts than three.
    """

    takes_weights: ClassVar[bool] = False

    def __init__(self, *, tau: float = 2.0, experts: int = EXPERTS, **shared: Any) -> None:
        super().__init__(experts=experts, **shared)
        if experts != EXPERTS:
            raise ValueError(f"task.experts must be {EXPERTS} for SADE (forward, uniform, backward), not {experts}")
        self.tau = tau

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and each expert's part."""
        logits = outputs["expert_logits"]
        return sade_loss(logits, batch["label"], self.counts(logits), self.tau)
