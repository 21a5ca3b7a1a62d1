"""LP++: a linear probe blended class by class with the text embeddings, its step sizes from Lipschitz constants.

Loss: -log softmax(f·(w_k + α_k t_k) + b_k)_y, w and α in turn by gradient steps, those of w of length 2/L

Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP", CVPR 2024, equations 2 to 13 and
algorithm 1. logits of class k = f . (w_k + alpha_k t_k) + b_k, without CLIP's factor 100: alpha plays its part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, accuracy, class_counts, class_sums
from lit_modules.fewshot.head import FewShotHead, State, count, warn_of_no_validation
from records.console import told

MOMENTUM = 0.9
ALPHA_EVERY = 10
ALPHA_FACTOR = 250.0

Alpha = Literal["fixed", "learned"]
AlphaGradient = Literal["fresh", "accumulated"]
Selection = Literal["validation", "last"]


@dataclass(frozen=True)
class Probe:
    """The parameters: weight (..., C, D), bias (..., C), alpha (..., C)."""

    weight: Tensor
    bias: Tensor
    alpha: Tensor

    def logits(self, features: Tensor, on_text: Tensor) -> Tensor:
        """Return (..., N, C) for features (..., N, D) and their cosines with the text (..., N, C)."""
        return features @ self.weight.mT + self.alpha.unsqueeze(-2) * on_text + self.bias.unsqueeze(-2)

    def where(self, chosen: Tensor, other: Probe) -> Probe:
        """Return this probe for the problems (...) that are chosen, the other one for the rest."""
        return Probe(
            torch.where(chosen[..., None, None], self.weight, other.weight),
            torch.where(chosen[..., None], self.bias, other.bias),
            torch.where(chosen[..., None], self.alpha, other.alpha),
        )


def weight_step(features: Tensor) -> Tensor:
    """Return the step on the weights, 4 N / largest eigenvalue of F^T F, for features (..., N, D): (...).

    Twice the inverse of the Lipschitz constant lambda / 2N that the softmax's Hessian bound gives, as in the authors'
    code.
    """
    size, width = features.shape[-2:]
    gram = features.mT @ features if width <= size else features @ features.mT
    return 4 * size / torch.linalg.eigvalsh(gram.double())[..., -1].to(features.dtype)


def alpha_step(on_text: Tensor) -> Tensor:
    """Return the step on alpha, N / (4 max_k sum_i (f_i . t_k)^2), for cosines (..., N, C): (...)."""
    return on_text.shape[-2] / (4 * on_text.square().sum(dim=-2).amax(dim=-1))


def initial_alpha(on_text: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return 250 times the mean over classes of the mean cosine of a class's images with its text: (...).

    Classes without images are left out of the mean.
    """
    own = on_text.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    counts = class_counts(labels, num_classes)
    sums = own.new_zeros(counts.shape).scatter_add(-1, labels, own)
    means = sums / counts.clamp(min=1)
    return ALPHA_FACTOR * means.sum(dim=-1) / (counts > 0).sum(dim=-1)


def gradients(probe: Probe, support: Labelled, on_text: Tensor) -> Probe:
    """Return the gradients of the mean cross-entropy over N images, shaped as the parameters."""
    logits = probe.logits(support.features, on_text)
    size = logits.shape[-2]
    place = support.labels.unsqueeze(-1)
    residual = logits.softmax(dim=-1).scatter_add(-1, place, -torch.ones_like(place, dtype=logits.dtype)) / size
    return Probe(residual.mT @ support.features, residual.sum(dim=-2), (residual * on_text).sum(dim=-2))


class LPP(FewShotHead):
    """LP++, trained by full-batch gradient descent; nothing is random.

    Weights start at the sums of the class's support features and biases at 0; the weights and biases take a step with
    momentum 0.9 in every epoch, alpha a plain step in every tenth. A class without support has alpha times its
    text and nothing else, while the others have their images on top, so it loses to them: route such classes elsewhere.

    Args:
        epochs: number of steps.
        alpha: `learned`, or `fixed` at its initial value (which it hardly leaves).
        alpha_gradient: `fresh`, or `accumulated`: the sum of the gradients of all epochs so far, as the authors' code
            has it, which never clears alpha's gradient.
        selection: `validation` keeps the last epoch that reaches the best accuracy there (the last epoch where there
            are no validation images); `last` keeps the last.
    """

    def __init__(
        self,
        *,
        epochs: int = 300,
        alpha: Alpha = "learned",
        alpha_gradient: AlphaGradient = "fresh",
        selection: Selection = "validation",
    ) -> None:
        super().__init__()
        self.epochs = count("epochs", epochs)
        self.alpha = alpha
        self.alpha_gradient = alpha_gradient
        self.selection = selection

    def solve(self, episode: Episode) -> State:
        """Train the probe."""
        assert episode.text is not None
        support, text = episode.support, episode.text
        on_text = support.features @ text.mT
        start = initial_alpha(on_text, support.labels, episode.num_classes)
        sums = class_sums(support.features, support.labels, episode.num_classes)
        zeros = sums.new_zeros(sums.shape[:-1])
        probe = Probe(sums, zeros, start.unsqueeze(-1).expand_as(zeros).clone())
        probe, found = self._train(probe, support, on_text, episode)
        return {
            "weight": probe.weight + probe.alpha.unsqueeze(-1) * text,
            "bias": probe.bias,
            "class_alpha": probe.alpha,
            "initial_alpha": start.double(),
            **found,
        }

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logits, text and weights blended into one matrix."""
        return features @ state["weight"].mT + state["bias"].unsqueeze(-2)

    def _train(self, probe: Probe, support: Labelled, on_text: Tensor, episode: Episode) -> tuple[Probe, State]:
        step, step_alpha = weight_step(support.features), alpha_step(on_text)
        velocity = Probe(torch.zeros_like(probe.weight), torch.zeros_like(probe.bias), torch.zeros_like(probe.alpha))
        watch = episode.validation if self.selection == "validation" else None
        if watch is None and self.selection == "validation":
            warn_of_no_validation("the last epoch")
        watched_text = None if watch is None or episode.text is None else watch.features @ episode.text.mT
        best, best_accuracy = probe, torch.zeros(step.shape, dtype=torch.float64, device=step.device)
        reached = best_accuracy
        summed = velocity.alpha
        for epoch in told("fitting LP++, epochs", range(1, self.epochs + 1)):
            gradient = gradients(probe, support, on_text)
            velocity = Probe(
                MOMENTUM * velocity.weight + gradient.weight, MOMENTUM * velocity.bias + gradient.bias, velocity.alpha
            )
            summed = summed + gradient.alpha if self.alpha_gradient == "accumulated" else gradient.alpha
            probe = replace(
                probe,
                weight=probe.weight - step[..., None, None] * velocity.weight,
                bias=probe.bias - step[..., None] * velocity.bias,
            )
            if self.alpha == "learned" and epoch % ALPHA_EVERY == 0:
                probe = replace(probe, alpha=probe.alpha - step_alpha[..., None] * summed)
            if watch is not None and watched_text is not None:
                reached = accuracy(probe.logits(watch.features, watched_text), watch.labels)
                as_good = reached >= best_accuracy
                best, best_accuracy = probe.where(as_good, best), torch.where(as_good, reached, best_accuracy)
        if watch is None:
            return probe, {}
        return best, {"validation_accuracy": best_accuracy, "last_validation_accuracy": reached}
