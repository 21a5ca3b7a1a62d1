"""Several experts over a shared stem: one classifier each, and the mean of their logits as the prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_modules.base import Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.classifier import ClassifierKind, build_classifier
from lit_modules.precision import precise_type
from records.errors import UserError


class ExpertClassifiers(nn.Module):
    """A classifier for each expert's part of the features: (B, experts * D) -> (B, experts, C)."""

    def __init__(self, kind: ClassifierKind, experts: int, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(build_classifier(kind, num_features, num_classes, scale) for _ in range(experts))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B, experts, C) of all experts' features, side by side (B, experts * D)."""
        parts = features.unflatten(1, (len(self.experts), -1)).unbind(1)
        return torch.stack([expert(part) for expert, part in zip(self.experts, parts, strict=True)], dim=1)


class ExpertModule(LongTailModule):
    """A method of several experts on a backbone that has as many branches (`model.experts`).

    Raises:
        UserError: the backbone has another number of branches.
    """

    def __init__(self, *, experts: int = 3, **shared: Any) -> None:
        super().__init__(**shared)
        found = branches(self.backbone)
        if found != experts:
            raise UserError(
                f"task.experts={experts}, and model={self.backbone.name} has {found} branch(es): set model.experts="
                f"{experts}, which the CIFAR ResNets and tiny take"
            )
        self.experts = experts

    def new_classifier(self, kind: ClassifierKind, scale: float) -> nn.Module:
        """Return an untrained classifier for each branch of the backbone."""
        experts = branches(self.backbone)
        width = self.backbone.num_features // experts
        return ExpertClassifiers(kind, experts, width, self.labels.num_classes, scale)

    def head(self, features: Tensor) -> Outputs:
        """Return `features` (B, E * D), `expert_logits` (B, E, C), and their mean `logits` (B, C)."""
        features = features.to(precise_type(features))
        expert_logits: Tensor = self.classifier(features)
        return {"features": features, "expert_logits": expert_logits, "logits": expert_logits.mean(dim=1)}


def branches(backbone: nn.Module) -> int:
    """Return how many experts' features a backbone puts side by side; 1 for an ordinary one."""
    return int(getattr(backbone.network, "experts", 1))
