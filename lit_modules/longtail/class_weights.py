"""Weights and priors of classes from the numbers of their training images, and when weights begin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WeightKind = Literal["none", "balanced", "effective"]
Normalisation = Literal["classes", "one"]


def log_prior(class_counts: Tensor, like: Tensor) -> Tensor:
    """Return log(n_c / N) (C,) of class counts (C,), in the type and on the device of `like`."""
    counts = class_counts.to(like)
    return (counts / counts.sum()).log()


def class_weights(
    class_counts: Tensor, kind: WeightKind, beta: float = 0.9999, normalise: Normalisation = "classes"
) -> Tensor:
    """Return the weight of each class (C,) float64 from the class counts (C,), all above 0.

    `balanced` is 1 / n_c; `effective` is (1 - beta) / (1 - beta^n_c), the inverse of the effective number (Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019), with beta in [0, 1). The weights sum
    to C (`classes`) or to 1 (`one`). `none` is 1 for every class before they are normalised.
    """
    counts = class_counts.double()
    if kind == "balanced":
        weights = 1 / counts
    elif kind == "effective":
        # expm1 and log keep the digits that 1 - beta^n loses where beta^n is near 1
        weights = (1 - beta) / -torch.expm1(counts * math.log(beta)) if beta > 0 else torch.ones_like(counts)
    else:
        weights = torch.ones_like(counts)
    total = len(counts) if normalise == "classes" else 1
    return weights * (total / weights.sum())


@dataclass(frozen=True)
class ClassWeighting:
    """The weights of a training rule, and the share of the epochs after which they begin (DRW: 0.8).

    Raises:
        ValueError: beta or from_fraction lies outside [0, 1), or a word is none of its choices.
    """

    kind: WeightKind = "none"
    beta: float = 0.9999
    normalise: Normalisation = "classes"
    from_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "balanced", "effective"):
            raise ValueError(f"rule.weights.kind={self.kind!r}: choose none, balanced or effective")
        if self.normalise not in ("classes", "one"):
            raise ValueError(f"rule.weights.normalise={self.normalise!r}: choose classes (sum C) or one (sum 1)")
        for name in ("beta", "from_fraction"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"rule.weights.{name}={value}: it must lie in [0, 1)")

    def weights(self, class_counts: Tensor) -> Tensor | None:
        """Return the weights (C,) float64; None where every class weighs the same."""
        if self.kind == "none":
            return None
        return class_weights(class_counts, self.kind, self.beta, self.normalise)


def has_begun(progress: float, from_fraction: float) -> bool:
    """Tell whether what begins after a share of the run has begun, at the start of an epoch."""
    # epoch 160 of 200 has reached 0.8 whatever the division's last bit says
    return progress >= from_fraction - 1e-9
