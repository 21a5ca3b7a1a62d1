"""Expert routing of RIDE: after each expert a router says whether one more would help.

Wang et al., ICLR 2021, section 3; widths and inputs: github.com/frank-xwang/RIDE-LongTailRecognition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.precision import PreciseLinear

HIDDEN = 16
TOP_LOGITS = 30


class ExpertRouters(nn.Module):
    """A router for each of E experts but the last: from its features and the logits so far, whether another would help.

    The routers have a hidden layer each and share the output layer, as in the authors' code.
    """

    def __init__(self, experts: int, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.top = min(TOP_LOGITS, num_classes)
        self.hidden = nn.ModuleList(PreciseLinear(num_features, HIDDEN) for _ in range(experts - 1))
        self.output = PreciseLinear(HIDDEN + self.top, 1)

    def forward(self, features: Tensor, expert_logits: Tensor) -> Tensor:
        """Return logits (B, E - 1) that one more expert would help, of features (B, E, D) and logits (B, E, C)."""
        directions = F.normalize(features[:, :-1], dim=2).unbind(1)
        hidden = [F.relu(layer(one)) for layer, one in zip(self.hidden, directions, strict=True)]
        largest = prefix_means(expert_logits)[:, :-1].topk(self.top, dim=2).values
        return self.output(torch.cat([largest, torch.stack(hidden, dim=1)], dim=2)).squeeze(2)


def prefix_means(expert_logits: Tensor) -> Tensor:
    """Return the mean logits of the first 1, 2, ... E experts, (B, E, C) of (B, E, C)."""
    sizes = torch.arange(1, expert_logits.shape[1] + 1, device=expert_logits.device, dtype=expert_logits.dtype)
    return expert_logits.cumsum(dim=1) / sizes.view(1, -1, 1)


def routing_targets(expert_logits: Tensor, label: Tensor) -> Tensor:
    """Return bool (B, E - 1): the experts up to this one are wrong together, and right with some more.

    expert_logits are (B, E, C), label (B,).
    """
    correct = prefix_means(expert_logits).argmax(dim=2) == label.unsqueeze(1)
    later = correct.flip(1).cummax(dim=1).values.flip(1)[:, 1:]
    return ~correct[:, :-1] & later


def routing_loss(calls: Tensor, expert_logits: Tensor, label: Tensor, positive_weight: float = 100.0) -> Tensor:
    """Return the mean binary cross-entropy of the routers' logits (B, E - 1) against `routing_targets`.

    The few images that one more expert would help weigh `positive_weight`; expert_logits (B, E, C), label (B,).
    """
    targets = routing_targets(expert_logits, label).to(calls.dtype)
    weight = torch.full((calls.shape[1],), positive_weight, dtype=calls.dtype, device=calls.device)
    return F.binary_cross_entropy_with_logits(calls, targets, pos_weight=weight)


def experts_asked(calls: Tensor) -> Tensor:
    """Return how many experts each image asks, int64 (B,) in 1 .. E: one more while the routers' logits are above 0."""
    return 1 + (calls > 0).long().cumprod(dim=1).sum(dim=1)


def routed_logits(calls: Tensor, expert_logits: Tensor) -> Tensor:
    """Return the mean logits (B, C) of the experts asked, of the routers' logits (B, E - 1) and (B, E, C)."""
    last = experts_asked(calls) - 1
    return prefix_means(expert_logits)[torch.arange(len(last), device=last.device), last]
