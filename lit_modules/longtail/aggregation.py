"""Weights of experts learned on unlabelled test images: those under which two views of an image are judged alike.

Zhang, Hooi, Hong and Feng, NeurIPS 2022, section 4.2: an expert is the more stable on the classes it knows, so the
weights that make predictions stable lean to the experts that fit the test part. Optimizer and epochs:
github.com/Vanint/SADE-AgnosticLT test_training_cifar.py. Its views are weaker than the default ones (SimCLR's): padded
crops with jitter, grey and blur, data.view_augment={smallest_crop: 1, crop_padding: 4, blur_probability: 0.2}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

Views = tuple[Tensor, Tensor]


def aggregated_logits(expert_logits: Tensor, weights: Tensor) -> Tensor:
    """Return sum_e w_e z_e (B, C) of expert logits (B, E, C) and weights (E,)."""
    return (weights.to(expert_logits).view(1, -1, 1) * expert_logits).sum(dim=1)


def prediction_stability(first: Tensor, second: Tensor, scores: Tensor) -> Tensor:
    """Return the mean cosine in [0, 1] between the probabilities that two views of each image get, a scalar.

    Args:
        first: expert logits (B, E, C) of one view.
        second: those of the other.
        scores: (E,), whose softmax are the weights.
    """
    weights = scores.softmax(dim=0)
    one, other = (aggregated_logits(logits, weights).softmax(dim=1) for logits in (first, second))
    return F.cosine_similarity(one, other, dim=1).mean()


def stable_weights(
    epochs: Iterable[Iterable[Views]],
    experts: int,
    lr: float = 0.1,
    smallest_weight: float = 0.05,
    over_ranks: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """Return the weights (E,) that gradient ascent on the stability leads to, equal ones at the start; sum 1.

    Args:
        epochs: for each epoch, the expert logits (B, E, C) of two views for each batch, without gradient.
        experts: E.
        lr: of SGD with Nesterov momentum 0.9 and weight decay 5e-4, in float64 on the CPU.
        smallest_weight: an epoch that leaves an expert less is the last one.
        over_ranks: the mean of a gradient (E,) over the ranks, which have batches of one size.
    """
    scores = nn.Parameter(torch.full((experts,), 1 / experts, dtype=torch.float64))
    optimizer = torch.optim.SGD([scores], lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    for batches in epochs:
        for first, second in batches:
            optimizer.zero_grad()
            (-prediction_stability(first.cpu().double(), second.cpu().double(), scores)).backward()
            assert scores.grad is not None
            scores.grad.copy_(over_ranks(scores.grad))
            optimizer.step()
        if float(scores.detach().softmax(dim=0).min()) < smallest_weight:
            break
    return scores.detach().softmax(dim=0)
