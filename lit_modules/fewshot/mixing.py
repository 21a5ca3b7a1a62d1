"""Choosing how much of one classifier is added to another, on labelled validation images."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy_over_weights(base: Tensor, extra: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the accuracy of base + w * extra for every weight w, in one pass over the logits.

    The label's logit beats that of class c where (base_y - base_c) + w (extra_y - extra_c) > 0, a bound on w from below
    or above; so the weights at which an image is right are one interval, and a grid costs no more than one weight.
    A tie counts as wrong.

    Args:
        base: (..., N, C).
        extra: (..., N, C).
        labels: (..., N) int64.
        weights: (G,).

    Returns:
        float64 (..., G), shares of the N images.
    """
    lower, upper = winning_interval(base, extra, labels)
    right = (weights > lower.unsqueeze(-1)) & (weights < upper.unsqueeze(-1))
    return right.double().mean(dim=-2)


def winning_interval(base: Tensor, extra: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the open interval (lower, upper), (..., N) each, of the weights at which the label's logit is largest.

    It is empty, (inf, -inf), for an image that no weight gets right.
    """
    place = labels.unsqueeze(-1)
    lead = (base.gather(-1, place) - base).scatter(-1, place, 1.0)
    slope = (extra.gather(-1, place) - extra).scatter(-1, place, 0.0)
    bound = -lead / slope
    lower = torch.where(slope > 0, bound, -torch.inf).amax(dim=-1)
    upper = torch.where(slope < 0, bound, torch.inf).amin(dim=-1)
    hopeless = ((slope == 0) & (lead <= 0)).any(dim=-1)
    return lower.masked_fill(hopeless, torch.inf), upper.masked_fill(hopeless, -torch.inf)


def first_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of scores (..., G) and the position of the first that reaches it, (...) each."""
    best = scores.argmax(dim=-1)
    return scores.gather(-1, best.unsqueeze(-1)).squeeze(-1), best
