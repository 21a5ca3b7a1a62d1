"""The old and the new classifier of one backbone, judged together.

Du and Wu, CVPR 2023, combine a re-trained classifier with the one before it; that the probabilities are averaged, each
softened by a temperature of its own, is an inference from the abstract and the group's published settings.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

EnsembleRule = Literal["prob", "logit"]

_TEMPERATURES = tuple(2 ** (half / 2) for half in range(-4, 5))
TEMPERATURE_PAIRS = tuple(
    {"t1": t1, "t2": t2}
    for t1, t2 in sorted(
        product(_TEMPERATURES, repeat=2), key=lambda pair: (sum(abs(math.log(one)) for one in pair), pair)
    )
)
"""What is tried on a validation part: 1/4 to 4 for either classifier, the nearest to 1 first."""


def ensemble_scores(
    new: Tensor, old: Tensor, rule: EnsembleRule, t1: float = 1.0, t2: float = 1.0, weight: float = 0.5
) -> Tensor:
    """Return scores (B, C) of two classifiers' logits (B, C).

    `prob` is log(weight softmax(new / t1) + (1 - weight) softmax(old / t2)), so that their softmax is the mean of the
    probabilities; `logit` is weight new / t1 + (1 - weight) old / t2.

    Args:
        new: logits of the re-trained classifier.
        old: logits of the one before it.
        rule: what is averaged.
        t1: temperature of the new classifier, above 0.
        t2: temperature of the old one; above 1 it weakens a bias towards the large classes.
        weight: share of the new classifier, in [0, 1].
    """
    if rule == "logit":
        return weight * new / t1 + (1 - weight) * old / t2
    shares = torch.tensor([weight, 1 - weight], dtype=new.dtype, device=new.device).log()
    return torch.logaddexp(
        F.log_softmax(new / t1, dim=1) + shares[0], F.log_softmax(old.to(new.dtype) / t2, dim=1) + shares[1]
    )
