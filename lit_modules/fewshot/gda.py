"""GDA: Gaussian discriminant analysis with one shared covariance, added to CLIP's own logits.

Loss: logits 100 f·t + α (f Σ⁻¹ μ_k - μ_k Σ⁻¹ μ_k / 2 - log C)

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, equations 4 to 8.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, class_means
from lit_modules.fewshot.head import (
    LOGIT_SCALE,
    FewShotHead,
    State,
    one_number,
    positive,
    text_logits,
    warn_of_no_validation,
)
from lit_modules.fewshot.mixing import accuracy_over_weights, first_best
from records.errors import UserError
from records.notices import RunWarning

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def precision_matrix(centred: Tensor) -> Tensor:
    """Return the inverse of the shared covariance of centred features (..., N, D), by empirical Bayes shrinkage.

    D * inverse((N - 1) S + trace(S) I) with S the sample covariance (Kubokawa and Srivastava 2008, as used in the
    paper, equation 8). All zero where the features do not vary, as the pseudo-inverse would be.
    """
    size, width = centred.shape[-2:]
    centred = centred.double()
    scatter = centred.mT @ centred
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1) / max(size - 1, 1)
    flat = trace == 0
    identity = torch.eye(width, dtype=scatter.dtype, device=scatter.device)
    shrunk = scatter + torch.where(flat, 1.0, trace)[..., None, None] * identity
    inverse = width * torch.cholesky_inverse(torch.linalg.cholesky(shrunk))
    return inverse.masked_fill(flat[..., None, None], 0.0)


def discriminant(support: Labelled, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the weights (..., C, D) and biases (..., C) of the linear discriminant with a uniform prior.

    w_k = P mu_k and b_k = log(1 / C) - mu_k^T P mu_k / 2, with P the shared precision matrix. Computed in float64,
    returned in the features' type.
    """
    features = support.features.double()
    means = class_means(features, support.labels, num_classes)
    own_mean = means.gather(-2, support.labels.unsqueeze(-1).expand_as(features))
    weight = means @ precision_matrix(features - own_mean)
    bias = -math.log(num_classes) - (weight * means).sum(dim=-1) / 2
    return weight.to(support.features.dtype), bias.to(support.features.dtype)


class GDA(FewShotHead):
    """logits = scale * cosine with the text + alpha * discriminant; the discriminant alone where there is no text.

    Every view of a support image is a sample: with one shot and one view the features do not vary within a class, the
    discriminant vanishes, and CLIP's own logits are left (the run warns; without text it stops).

    Args:
        alpha: weight of the discriminant without validation images.
        alphas: what is tried on the validation images; the first best is taken. Empty: `alpha` it is.
        scale: factor on the cosines.
    """

    needs_text = False
    needs_every_class = True

    def __init__(self, *, alpha: float = 1.0, alphas: Sequence[float] = ALPHAS, scale: float = LOGIT_SCALE) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)
        self.alphas = tuple(positive("alphas", value) for value in alphas)
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Estimate the discriminant; choose alpha."""
        weight, bias = discriminant(episode.support_views, episode.num_classes)
        if not weight.any(dim=-1).any(dim=-1).all():
            _say_that_nothing_varies(has_text=episode.text is not None)
        if episode.text is None:
            return {"weight": weight, "bias": bias}
        state = {"weight": weight, "bias": bias, "text": episode.text}
        if episode.validation is None or not self.alphas:
            if self.alphas:
                warn_of_no_validation(f"task.alpha={self.alpha}")
            return {**state, "alpha": one_number(self.alpha, weight)}
        validation = episode.validation
        base = text_logits(validation.features, episode.text, self.scale)
        tried = torch.tensor(self.alphas, dtype=base.dtype, device=base.device)
        accuracies = accuracy_over_weights(base, _affine(validation.features, state), validation.labels, tried)
        best, place = first_best(accuracies)
        return {**state, "alpha": tried.double()[place], "validation_accuracy": best}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the mixed logits."""
        extra = _affine(features, state)
        if "text" not in state:
            return extra
        alpha = state["alpha"][..., None, None].to(extra.dtype)
        return text_logits(features, state["text"], self.scale) + alpha * extra


def _affine(features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    return features @ state["weight"].mT + state["bias"].unsqueeze(-2)


def _say_that_nothing_varies(has_text: bool) -> None:
    problem = "one shot and one view per class: features do not vary within a class, and the discriminant is zero"
    mend = "take more shots (data.shots) or several views of each image (data.views)"
    if not has_text:
        raise UserError(f"task=gda: {problem}; {mend}")
    warnings.warn(f"{problem}, so CLIP's zero-shot classifier is left; {mend}", RunWarning, stacklevel=3)
