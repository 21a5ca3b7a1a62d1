"""Tip-Adapter: the support as a cache of keys, whose labels are added to CLIP's logits by similarity.

Loss: logits 100 f·t + α exp(-β (1 - f·keys)) · one-hot

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022, equations 4 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled
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
from records.errors import UserError

Spacing = Literal["linear", "log"]


def grid(low: float, high: float, steps: int, spacing: Spacing) -> Tensor:
    """Return `steps` values from low on, float64, rising.

    `linear` is the published search, which stops one step short of `high`; `log` is geometric, both ends included.
    """
    if spacing == "linear":
        return low + (high - low) * torch.arange(steps, dtype=torch.float64) / steps
    return torch.logspace(0, 1, steps, base=high / low, dtype=torch.float64) * low


def cache_logits(affinity: Tensor, labels: Tensor, num_classes: int, beta: Tensor) -> Tensor:
    """Return sum over the keys of each class of exp(-beta (1 - affinity)).

    Args:
        affinity: (..., N, M), cosines of N features with M keys.
        labels: (..., M) int64, classes of the keys.
        num_classes: C.
        beta: (...), sharpness.

    Returns:
        (..., N, C).
    """
    similarity = torch.exp(beta[..., None, None].to(affinity.dtype) * (affinity - 1))
    return key_sums(similarity, labels, num_classes)


def key_sums(similarity: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return similarities (..., N, M) summed over the keys of each class (..., M): (..., N, C)."""
    sums = similarity.new_zeros(*similarity.shape[:-1], num_classes)
    return sums.scatter_add(-1, labels.unsqueeze(-2).expand_as(similarity), similarity)


def search(
    base: Tensor, affinity: Tensor, labels: Tensor, wanted: Tensor, alphas: Tensor, betas: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first best alpha and beta, betas outermost, and their accuracy; (...) each, float64.

    Args:
        base: (..., N, C), CLIP's logits of the validation images.
        affinity: (..., N, M), their cosines with the keys.
        labels: (..., M), classes of the keys.
        wanted: (..., N), classes of the validation images.
        alphas: (A,), weights of the cache.
        betas: (B,), sharpnesses.
    """
    tried = []
    for beta in betas:
        extra = cache_logits(affinity, labels, base.shape[-1], beta)
        tried.append(accuracy_over_weights(base, extra, wanted, alphas.to(base)))
    best, place = first_best(torch.stack(tried, dim=-2).flatten(-2))
    beta_place, alpha_place = place // len(alphas), place % len(alphas)
    return alphas.to(base.device)[alpha_place], betas.to(base.device)[beta_place], best


class TipAdapter(FewShotHead):
    """logits = scale * cosine with the text + alpha * cache; the cache alone where there is no text.

    A key is the mean of a support image's views. Alpha and beta are searched on validation images and nothing else;
    without them `alpha` and `beta` are taken as they are, and the run warns.

    Args:
        alpha: weight of the cache.
        beta: sharpness of the similarity.
        search: look for both on the validation images.
        alpha_range, beta_range: lowest and highest value of the search, above 0.
        alpha_steps, beta_steps: number of values; alphas cost next to nothing.
        spacing: of the values, `log` or the published `linear`.
        scale: factor on the cosines with the text.
    """

    needs_text = False

    def __init__(
        self,
        *,
        alpha: float = 1.17,
        beta: float = 1.0,
        search: bool = True,
        alpha_range: Sequence[float] = (0.1, 50.0),
        beta_range: Sequence[float] = (0.1, 50.0),
        alpha_steps: int = 200,
        beta_steps: int = 40,
        spacing: Spacing = "log",
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.search = search
        _check_range("alpha_range", alpha_range)
        _check_range("beta_range", beta_range)
        self.alphas = grid(alpha_range[0], alpha_range[1], count("alpha_steps", alpha_steps), spacing)
        self.betas = grid(beta_range[0], beta_range[1], count("beta_steps", beta_steps), spacing)
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Keep the keys; choose alpha and beta."""
        support = episode.support
        return self.with_settings(support, episode)

    def with_settings(self, keys: Labelled, episode: Episode) -> State:
        """Return the state of a cache of these keys, with alpha and beta chosen."""
        classes = torch.tensor(episode.num_classes, device=keys.labels.device)
        state = {"keys": keys.features, "labels": keys.labels, "num_classes": classes}
        if episode.text is not None:
            state["text"] = episode.text
        if not self.search or episode.validation is None:
            if self.search:
                warn_of_no_validation(f"task.alpha={self.alpha} and task.beta={self.beta}")
            return {
                **state,
                "alpha": one_number(self.alpha, keys.features),
                "beta": one_number(self.beta, keys.features),
            }
        validation = episode.validation
        base = self._base(validation.features, state)
        affinity = validation.features @ keys.features.mT
        alpha, beta, best = search(base, affinity, keys.labels, validation.labels, self.alphas, self.betas)
        return {**state, "alpha": alpha, "beta": beta, "validation_accuracy": best}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the mixed logits."""
        affinity = features @ state["keys"].mT
        cache = cache_logits(affinity, state["labels"], int(state["num_classes"]), state["beta"])
        return self._base(features, state) + state["alpha"][..., None, None].to(cache.dtype) * cache

    def _base(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        if "text" in state:
            return text_logits(features, state["text"], self.scale)
        return features.new_zeros(*features.shape[:-1], int(state["num_classes"]))


def _check_range(key: str, ends: Sequence[float]) -> None:
    if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
        raise UserError(f"task.{key}={list(ends)}: two numbers above 0, the lower one first")
