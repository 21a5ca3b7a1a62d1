"""Classifiers on features, computed in float32: linear, and cosine with its scale applied exactly once."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.precision import PreciseLinear, full_precision, precise_type

ClassifierKind = Literal["linear", "cosine"]

CLASS_SCALE = "class_scale"
"""Where a checkpoint holds the factor (C,) on each class's logit that LWS and MiSLAS learn beside the classifier."""


class LinearClassifier(PreciseLinear):
    """Logits w_c . f + b_c; Kaiming initialisation, as the CIFAR ResNets of the field have (Cao et al., their code)."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        nn.init.kaiming_normal_(self.weight)


class CosineClassifier(nn.Module):
    """Logits scale * cos(w_c, f): no bias, neither the length of a feature nor that of a class weight counts.

    The logits carry the scale already, so a margin taken from them is scale * margin, and a softmax of them is a
    probability. (Cao et al., LDAM-DRW, NeurIPS 2019; the weights start uniform on [-1, 1], normalised.)

    Raises:
        ValueError: `scale` is not positive.
    """

    def __init__(self, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"task.scale must be above 0, not {scale}")
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, num_features).uniform_(-1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) in [-scale, scale] of features (B, D)."""
        precise = precise_type(features, self.weight)
        with full_precision(features):
            directions = F.normalize(features.to(precise))
            return self.scale * F.linear(directions, F.normalize(self.weight.to(precise)))


def fold_class_scale(classifier: nn.Module, scale: Tensor) -> bool:
    """Multiply the logits of a linear classifier by a factor each (C,); return whether it is one that can take them.

    s (W f + b) = (s W) f + s b. A cosine classifier takes none, as the lengths of its weights do not count.
    """
    if not isinstance(classifier, LinearClassifier):
        return False
    with torch.no_grad():
        classifier.weight.mul_(scale.to(classifier.weight).unsqueeze(1))
        classifier.bias.mul_(scale.to(classifier.bias))
    return True


def build_classifier(kind: ClassifierKind, num_features: int, num_classes: int, scale: float) -> nn.Module:
    """Build the classifier `kind` from features (B, D) to logits (B, C); `scale` is the cosine classifier's."""
    if kind == "cosine":
        return CosineClassifier(num_features, num_classes, scale)
    return LinearClassifier(num_features, num_classes)
