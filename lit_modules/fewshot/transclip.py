"""TransCLIP: a Gaussian mixture over the judged images, held to CLIP's and their neighbours' predictions. Transductive.

Loss: -Σ z log p(f | μ, σ) - Σ w_ij z_i·z_j + λ Σ KL(z ‖ softmax(100 f·t)), in turn over z, μ, σ

Zanella, Gerin and Ben Ayed, "Boosting Vision-Language Models with Transduction", NeurIPS 2024, equations 1 to 9.
Written from the paper; how much the support weighs is the authors' code's (MaxZanella/transduction-for-vlms @ 6a9e8f3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, accuracy
from lit_modules.fewshot.head import (
    LOGIT_SCALE,
    FewShotHead,
    State,
    count,
    one_number,
    positive,
    text_logits,
    warn_of_no_validation,
)
from lit_modules.fewshot.mixing import first_best
from records.console import told

GAMMAS = (0.002, 0.01, 0.02, 0.2)
BLOCK = 2048
"""Rows of an affinity matrix held at a time."""


def nearest(features: Tensor, pool: Tensor, neighbours: int, own: bool) -> tuple[Tensor, Tensor]:
    """Return cosines and positions (..., N, k) of each feature's nearest rows in a pool (..., P, D).

    Args:
        features: (..., N, D).
        pool: (..., P, D).
        neighbours: k; the whole pool where it is smaller, and none where an image is alone in it.
        own: feature i is row i of the pool, and no neighbour of itself.
    """
    k = max(min(neighbours, pool.shape[-2] - own), 0)
    values, places = [], []
    for start in range(0, features.shape[-2], BLOCK):
        affinity = features[..., start : start + BLOCK, :] @ pool.mT
        if own:
            affinity.diagonal(offset=start, dim1=-2, dim2=-1).fill_(-torch.inf)
        best = affinity.topk(k, dim=-1)
        values.append(best.values)
        places.append(best.indices)
    return torch.cat(values, dim=-2), torch.cat(places, dim=-2)


def neighbour_votes(weights: Tensor, places: Tensor, assignment: Tensor) -> Tensor:
    """Return the mean of w_ij z_j over each row's neighbours j: (..., N, C).

    Args:
        weights: (..., N, k).
        places: (..., N, k), rows of the assignment.
        assignment: z (..., P, C).
    """
    size, k = places.shape[-2:]
    rows = places.flatten(-2).unsqueeze(-1).expand(*places.shape[:-2], size * k, assignment.shape[-1])
    chosen = assignment.gather(-2, rows).unflatten(-2, (size, k))
    return (weights.unsqueeze(-1) * chosen).sum(dim=-2) / max(k, 1)


def log_likelihood(features: Tensor, means: Tensor, variance: Tensor) -> Tensor:
    """Return log N(f; mu_k, diag(variance)) without its constant: (..., N, C).

    Args:
        features: (..., N, D).
        means: (..., C, D).
        variance: (..., D), shared by all classes.
    """
    scaled = features / variance.unsqueeze(-2)
    own = (features * scaled).sum(dim=-1, keepdim=True)
    centre = (means.square() / variance.unsqueeze(-2)).sum(dim=-1).unsqueeze(-2)
    return -(own - 2 * scaled @ means.mT + centre) / 2 - variance.log().sum(dim=-1)[..., None, None] / 2


def mixture(
    features: Tensor, assignment: Tensor, support: Labelled | None, support_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return means (..., C, D) and the shared variance (..., D) of images weighted by assignment.

    The images that are judged weigh 1 / M each, the support images support_weight / N each.

    Args:
        features: (..., M, D).
        assignment: z (..., M, C).
        support: N labelled images, or None.
        support_weight: (...).
    """
    weight = assignment / features.shape[-2]
    if support is not None:
        share = support_weight[..., None, None].to(features.dtype) / support.labels.shape[-1]
        labels = F.one_hot(support.labels, assignment.shape[-1]).to(features.dtype) * share
        features = torch.cat([features, support.features], dim=-2)
        weight = torch.cat([weight, labels], dim=-2)
    mass = weight.sum(dim=-2).clamp(min=torch.finfo(weight.dtype).tiny)
    means = weight.mT @ features / mass.unsqueeze(-1)
    # sum_ik w_ik (f_i - mu_k)^2 = sum_i w_i f_i^2 - sum_k w_k mu_k^2
    second = (weight.sum(dim=-1, keepdim=True) * features.square()).sum(dim=-2)
    spread = second - (mass.unsqueeze(-1) * means.square()).sum(dim=-2)
    return means, (spread / mass.sum(dim=-1, keepdim=True)).clamp(min=torch.finfo(weight.dtype).eps)


@dataclass(frozen=True)
class Evidence:
    """What is known of N images before any mixture: what no update and no gamma changes.

    Attributes:
        features: (..., N, D).
        prediction: lambda times the logarithms of CLIP's probabilities (..., N, C).
        weights, places: (..., N, k), affinities and numbers of their neighbours among the images of the fit.
    """

    features: Tensor
    prediction: Tensor
    weights: Tensor
    places: Tensor


class TransCLIP(FewShotHead):
    """Zero-shot, or few-shot where the data give support images.

    An image's assignment is z = softmax(weight log y + log-likelihood / temperature + vote of its neighbours), y being
    CLIP's probabilities; assignments, means and the variance that all classes share are updated in turn. As the
    temperature divides the likelihood of the judged images alone, the support weighs gamma * temperature in the mixture
    to their 1. An image that was not among those of the fit is judged by the same formula, with its neighbours there.

    What differs from the authors' code: an image's vote is the mean over its own neighbours, there also over those
    images, shots among them, whose neighbour it is; and means keep their length, there they are brought to length 1.

    Args:
        text_weight: lambda, the weight of CLIP's prediction; None takes 1 without support and 0.5 with it.
        gammas: weights of the support that are tried where there are validation images. These join the judged images,
            unlabelled, in fits of their own; the first gamma whose fit assigns most of them to their class is taken.
        gamma: weight of the support where there are no validation images.
        neighbours: of each image, among the images that are judged.
        iterations: updates of means and variance.
        inner_iterations: updates of the assignment in each of them.
        temperature: of the Gaussians' log-likelihood, a sum over hundreds of channels that would silence CLIP; 50 is
            the authors' (in their code, not in the paper).
        confident: the most confident images of a class, whose mean starts it where there is no support.
        scale: factor on the cosines whose softmax is CLIP's prediction.
    """

    transductive: ClassVar[bool] = True
    needs_support: ClassVar[bool] = False

    def __init__(
        self,
        *,
        text_weight: float | None = None,
        gammas: Sequence[float] = GAMMAS,
        gamma: float = 0.02,
        neighbours: int = 3,
        iterations: int = 10,
        inner_iterations: int = 5,
        temperature: float = 50.0,
        confident: int = 8,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        self.text_weight = text_weight
        self.gammas = tuple(positive("gammas", value) for value in gammas)
        self.gamma = positive("gamma", gamma)
        self.neighbours = count("neighbours", neighbours)
        self.iterations = count("iterations", iterations)
        self.inner_iterations = count("inner_iterations", inner_iterations)
        self.temperature = positive("temperature", temperature)
        self.confident = count("confident", confident)
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Choose gamma, and fit the mixture to the judged images."""
        assert episode.unlabelled is not None
        support = None if episode.labels is None else episode.support
        watch = None if support is None or not self.gammas else episode.validation
        if watch is None and support is not None and self.gammas:
            warn_of_no_validation(f"task.gamma={self.gamma}")
        tried = 0 if watch is None else len(self.gammas)
        rounds = told("fitting TransCLIP, updates", range(self.iterations * (tried + 1)))
        gamma, found = one_number(self.gamma, episode.unlabelled), State()
        if watch is not None:
            gamma, reached = self._chosen_gamma(episode, support, watch, rounds)
            found = {"validation_accuracy": reached}
        judged, first, state = self._before_updates(episode, episode.unlabelled)
        return {**state, **found, **self._fit_mixture(judged, first, support, gamma, rounds)}

    def _before_updates(self, episode: Episode, images: Tensor) -> tuple[Evidence, Tensor, State]:
        """Return what is known of the images of a fit, their first assignment, and the state that is given."""
        assert episode.text is not None
        weight = self.text_weight if self.text_weight is not None else (1.0 if episode.labels is None else 0.5)
        state = {"images": images, "text": episode.text, "text_weight": one_number(weight, images)}
        logits = text_logits(images, episode.text, self.scale)
        neighbours = nearest(images, images, self.neighbours, own=True)
        return _evidence(images, logits, state, neighbours), logits.softmax(dim=-1), state

    def _chosen_gamma(
        self, episode: Episode, support: Labelled | None, watch: Labelled, rounds: Iterator[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the first best gamma, and the share of validation images that its fit gets right; (...) each.

        An image that no fit has seen is judged far worse than those of the fit, which move the means to where they are:
        validation images must be among them, or what is chosen is what overrules the judged images.
        """
        assert episode.unlabelled is not None
        size = episode.unlabelled.shape[-2]
        joined, first, state = self._before_updates(episode, torch.cat([episode.unlabelled, watch.features], dim=-2))
        right = []
        for value in self.gammas:
            gamma = one_number(value, joined.features)
            fitted = {**state, **self._fit_mixture(joined, first, support, gamma, rounds)}
            right.append(accuracy(self._log_assignment(joined, fitted)[..., size:, :], watch.labels))
        best, place = first_best(torch.stack(right, dim=-1))
        return torch.tensor(self.gammas, dtype=torch.float64, device=place.device)[place], best

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithms of the assignment, up to a constant for each image."""
        return self._log_assignment(self._evidence_of(features, state), state)

    def _fit_mixture(
        self, judged: Evidence, assignment: Tensor, support: Labelled | None, gamma: Tensor, rounds: Iterator[int]
    ) -> State:
        images = judged.features
        means = self._first_means(images, assignment, support)
        variance = torch.full_like(images[..., 0, :], 1 / images.shape[-1])
        for _ in islice(rounds, self.iterations):
            evidence = self._by_mixture(judged, means, variance)
            for _ in range(self.inner_iterations):
                votes = neighbour_votes(judged.weights, judged.places, assignment)
                assignment = (evidence + votes).softmax(dim=-1)
            means, variance = mixture(images, assignment, support, gamma * self.temperature)
        return {"gamma": gamma, "assignment": assignment, "means": means, "variance": variance}

    def _log_assignment(self, judged: Evidence, state: Mapping[str, Tensor]) -> Tensor:
        votes = neighbour_votes(judged.weights, judged.places, state["assignment"])
        return self._by_mixture(judged, state["means"], state["variance"]) + votes

    def _by_mixture(self, judged: Evidence, means: Tensor, variance: Tensor) -> Tensor:
        return judged.prediction + log_likelihood(judged.features, means, variance) / self.temperature

    def _evidence_of(self, features: Tensor, state: Mapping[str, Tensor]) -> Evidence:
        logits = text_logits(features, state["text"], self.scale)
        return _evidence(features, logits, state, self._neighbours_of(features, state["images"]))

    def _first_means(self, images: Tensor, assignment: Tensor, support: Labelled | None) -> Tensor:
        """Return the mean of each class's support; of a class without any, of the images most surely of it."""
        places = assignment.mT.topk(min(self.confident, images.shape[-2]), dim=-1).indices
        rows = places.flatten(-2).unsqueeze(-1).expand(*places.shape[:-2], -1, images.shape[-1])
        means = images.gather(-2, rows).unflatten(-2, places.shape[-2:]).mean(dim=-2)
        if support is not None:
            counts = F.one_hot(support.labels, assignment.shape[-1]).sum(dim=-2).unsqueeze(-1)
            sums = F.one_hot(support.labels, assignment.shape[-1]).to(images.dtype).mT @ support.features
            means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
        return F.normalize(means, dim=-1)

    def _neighbours_of(self, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest images of the fit; one that is the very same feature is itself, and does not count."""
        cosines, places = nearest(features, images, self.neighbours + 1, own=False)
        nearest_rows = images.gather(-2, places[..., :1].expand(*places.shape[:-1], images.shape[-1]))
        itself = (nearest_rows == features).all(dim=-1, keepdim=True)
        kept = torch.where(itself, cosines[..., 1:], cosines[..., :-1])
        return kept, torch.where(itself, places[..., 1:], places[..., :-1])


def _evidence(
    features: Tensor, logits: Tensor, state: Mapping[str, Tensor], neighbours: tuple[Tensor, Tensor]
) -> Evidence:
    weight = state["text_weight"][..., None, None].to(logits.dtype)
    cosines, places = neighbours
    return Evidence(features, weight * logits.log_softmax(dim=-1), cosines.clamp(min=0), places)
