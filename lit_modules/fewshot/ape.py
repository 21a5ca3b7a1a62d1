"""APE: Tip-Adapter on the feature channels that tell classes apart, its keys weighed by what CLIP makes of them.

Loss: logits 100 f·t + α exp(-β (1 - f'·keys')) · weights · one-hot, ' for the chosen channels

Zhu et al., "Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement", ICCV 2023, sections 3.1
and 3.2 (the training-free APE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, class_counts, class_sums
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
from lit_modules.fewshot.mixing import accuracy_over_weights, first_best
from lit_modules.fewshot.tip_adapter import key_sums
from records.errors import UserError

SMOOTHING = 1e-6


def channel_scores(support: Labelled, text: Tensor, similarity_weight: float, variance_weight: float) -> Tensor:
    """Return how well each channel tells classes apart, (..., D): the higher, the better.

    -similarity_weight * (mean product of two samples of different classes, over all such pairs; samples are the support
    images and one text embedding per class) + variance_weight * (variance of the channel over the text embeddings).
    The pairs are not looped over: their sum is the square of the sum minus the squares of the classes' own sums.
    """
    num_classes = text.shape[-2]
    sums = text + class_sums(support.features, support.labels, num_classes)
    counts = 1 + class_counts(support.labels, num_classes)
    pairs = counts.sum(dim=-1).square() - counts.square().sum(dim=-1)
    products = sums.sum(dim=-2).square() - sums.square().sum(dim=-2)
    return variance_weight * text.var(dim=-2) - similarity_weight * products / pairs.unsqueeze(-1)


def kept_channels(scores: Tensor, kept: float) -> Tensor:
    """Return the positions of the best share `kept` of the channels (..., D), int64 (..., d) with d >= 1."""
    number = max(1, round(kept * scores.shape[-1]))
    return scores.topk(number, dim=-1).indices


def refined(features: Tensor, channels: Tensor) -> Tensor:
    """Return the chosen channels (..., d) of features (..., N, D), at unit length: (..., N, d)."""
    places = channels.unsqueeze(-2).expand(*channels.shape[:-1], features.shape[-2], channels.shape[-1])
    return F.normalize(features.expand(*channels.shape[:-1], *features.shape[-2:]).gather(-1, places), dim=-1)


def key_divergence(keys: Tensor, labels: Tensor, text: Tensor) -> Tensor:
    """Return KL(label || softmax of the key's cosines with the text) in bits, (..., M), as the authors smooth it.

    Args:
        keys: (..., M, d), unit rows of refined channels.
        labels: (..., M).
        text: (..., C, d), likewise refined.
    """
    probability = (keys @ text.mT).softmax(dim=-1)
    wanted = torch.zeros_like(probability).scatter(-1, labels.unsqueeze(-1), 1.0)
    return (wanted * torch.log2((wanted + SMOOTHING) / (probability + SMOOTHING))).sum(dim=-1)


class APE(FewShotHead):
    """logits = scale * cosine with the text + alpha * sum over keys of exp(-beta (1 - cosine) + gamma * divergence).

    The cosine with the keys is of the refined channels. Alpha, beta and gamma are searched on the validation images;
    without them they are taken as they are, and the run warns.

    Args:
        kept: share of the channels.
        similarity_weight, variance_weight: of the two criteria that rank the channels.
        alpha, beta, gamma: without a search.
        search: look for the three on the validation images.
        alpha_range, beta_range, gamma_range: lowest and highest value of each.
        alpha_steps, beta_steps, gamma_steps: number of values, evenly spaced, both ends included. All of them are the
            authors' for ImageNet (yangyangyang127/APE @ 70460de, configs/imagenet.yaml: steps of 6.9 / 20 and 6.9 / 200
            from 0.1 on, 7 itself left out).
        scale: factor on the cosines with the text.
    """

    def __init__(
        self,
        *,
        kept: float = 0.5,
        similarity_weight: float = 0.7,
        variance_weight: float = 0.3,
        alpha: float = 2.0,
        beta: float = 1.0,
        gamma: float = 0.1,
        search: bool = True,
        alpha_range: Sequence[float] = (0.1, 6.655),
        beta_range: Sequence[float] = (0.1, 6.9655),
        gamma_range: Sequence[float] = (0.0, 0.4),
        alpha_steps: int = 20,
        beta_steps: int = 200,
        gamma_steps: int = 5,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        if not 0 < kept <= 1:
            raise ValueError(f"task.kept is {kept}; it is a share of the channels in (0, 1]")
        self.kept = kept
        self.similarity_weight = similarity_weight
        self.variance_weight = variance_weight
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.gamma = gamma
        self.search = search
        self.alphas = _values("alpha", alpha_range, alpha_steps)
        self.betas = _values("beta", beta_range, beta_steps)
        self.gammas = _values("gamma", gamma_range, gamma_steps)
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Choose the channels, weigh the keys, choose alpha, beta and gamma."""
        assert episode.text is not None
        support = episode.support
        ranking = channel_scores(support, episode.text, self.similarity_weight, self.variance_weight)
        channels = kept_channels(ranking, self.kept)
        keys = refined(support.features, channels)
        divergence = key_divergence(keys, support.labels, refined(episode.text, channels))
        state = {
            "channels": channels,
            "keys": keys,
            "divergence": divergence,
            "labels": support.labels,
            "text": episode.text,
        }
        return {**state, **self._settings(state, episode)}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the mixed logits."""
        affinity = refined(features, state["channels"]) @ state["keys"].mT
        similarity = _similarity(affinity, state["beta"]) * _key_factor(state, state["gamma"])
        cache = key_sums(similarity, state["labels"], state["text"].shape[-2])
        base = text_logits(features, state["text"], self.scale)
        return base + state["alpha"][..., None, None].to(cache.dtype) * cache

    def _settings(self, state: State, episode: Episode) -> State:
        if not self.search or episode.validation is None:
            if self.search:
                warn_of_no_validation(f"task.alpha={self.alpha}, task.beta={self.beta}, task.gamma={self.gamma}")
            fixed = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}
            return {name: one_number(value, state["keys"]) for name, value in fixed.items()}
        features, wanted = episode.validation.features, episode.validation.labels
        base = text_logits(features, state["text"], self.scale)
        affinity = refined(features, state["channels"]) @ state["keys"].mT
        cells = torch.cartesian_prod(self.betas, self.gammas).to(base.device)
        weights, factors = self.alphas.to(base), [_key_factor(state, gamma) for gamma in self.gammas.to(base.device)]
        tried = []
        for beta in self.betas.to(base.device):
            similarity = _similarity(affinity, beta)
            for factor in factors:
                extra = key_sums(similarity * factor, state["labels"], base.shape[-1])
                tried.append(accuracy_over_weights(base, extra, wanted, weights))
        best, place = first_best(torch.stack(tried, dim=-2).flatten(-2))
        cell = cells[place // len(self.alphas)]
        alpha = self.alphas.to(base.device)[place % len(self.alphas)]
        return {"alpha": alpha, "beta": cell[..., 0], "gamma": cell[..., 1], "validation_accuracy": best}


def _similarity(affinity: Tensor, beta: Tensor) -> Tensor:
    """Return exp(-beta (1 - affinity)) of affinities (..., N, M) with beta (...)."""
    return torch.exp(beta[..., None, None].to(affinity.dtype) * (affinity - 1))


def _key_factor(state: Mapping[str, Tensor], gamma: Tensor) -> Tensor:
    """Return exp(gamma * divergence) of the keys, (..., 1, M), with gamma (...)."""
    divergence = state["divergence"]
    return torch.exp(gamma[..., None].to(divergence.dtype) * divergence).unsqueeze(-2)


def _values(name: str, ends: Sequence[float], steps: int) -> Tensor:
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1]:
        raise UserError(f"task.{name}_range={list(ends)}: two numbers from 0 on, the lower one first")
    return torch.linspace(ends[0], ends[1], count(f"{name}_steps", steps), dtype=torch.float64)
