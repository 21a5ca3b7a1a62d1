"""What two labels have in common, and the terms that several losses over pairs of samples share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shared_label(labels: Tensor, others: Tensor) -> Tensor:
    """Return whether two samples share a class, bool (B, N).

    labels (B,) and others (N,) are class numbers, or (B, C) and (N, C) multi-hot. A row without any class shares
    none, not even with itself; nor does a class number below 0.
    """
    if labels.ndim == 1:
        return (labels[:, None] == others[None, :]) & (labels[:, None] >= 0)
    return labels.float() @ others.float().T > 0


def label_cosine(labels: Tensor, others: Tensor) -> Tensor:
    """Return the cosine of two samples' label rows, float32 (B, N) in [0, 1] (IDHN, arXiv 1803.02987).

    labels (B, C) and others (N, C) are multi-hot; of class numbers (B,) and (N,) it is 1 where they are equal, else 0.
    A row without any class has cosine 0 with every row.
    """
    if labels.ndim == 1:
        return shared_label(labels, others).float()
    return F.normalize(labels.float()) @ F.normalize(others.float()).T


def pair_likelihood(theta: Tensor, similar: Tensor) -> Tensor:
    """Return log(1 + e^theta) - s theta for each pair, the negative log-likelihood of s under sigmoid(theta).

    theta is real, similar s is bool or in [0, 1], both (B, N). Exact for any theta, where the plain formula overflows.
    """
    return -F.logsigmoid(-theta) - similar.to(theta.dtype) * theta


def balanced_weights(similar: Tensor, pairs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weight of each pair that makes similar and dissimilar pairs count alike (HashNet, arXiv 1702.00758).

    |S| / |S1| for similar and |S| / |S0| for dissimilar pairs, where S are the pairs that count. If they are all of one
    kind each weighs 1.

    Args:
        similar: bool (B, N).
        pairs: bool (B, N), which pairs count at all.
        dtype: of the weights.

    Returns:
        (B, N), 0 for pairs that do not count.
    """
    total = pairs.sum().to(dtype)
    alike = (pairs & similar).sum().to(dtype)
    of_similar = total / alike.clamp(min=1)
    of_dissimilar = total / (total - alike).clamp(min=1)
    return torch.where(similar, of_similar, of_dissimilar) * pairs
