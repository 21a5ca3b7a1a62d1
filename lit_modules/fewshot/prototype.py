"""Nearest prototype: the class whose mean support feature is nearest, the text embedding mixed in where wanted.

Loss: logits 100 f·normalise((1 - a) mean of class + a t)

Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017 (the classifier, on frozen
features and with cosines); the mix with text is the usual way of moving CLIP's weights towards the support.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode, accuracy, class_means
from lit_modules.fewshot.head import (
    LOGIT_SCALE,
    FewShotHead,
    State,
    one_number,
    positive,
    refuse_empty_classes,
    text_logits,
)
from lit_modules.fewshot.mixing import first_best
from records.errors import UserError
from records.notices import RunWarning

TEXT_WEIGHTS = tuple(step / 10 for step in range(11))
WITHOUT_VALIDATION = 0.9


def mixed_prototypes(prototypes: Tensor, text: Tensor | None, text_weight: Tensor) -> Tensor:
    """Return unit rows of (1 - w) prototype + w text for (..., C, D) each and w (...); a zero prototype gives text."""
    prototypes = F.normalize(prototypes, dim=-1)
    if text is None:
        return prototypes
    weight = text_weight[..., None, None].to(text.dtype)
    return F.normalize((1 - weight) * prototypes + weight * text, dim=-1)


class Prototype(FewShotHead):
    """Cosine with the class prototypes, times `scale`.

    Args:
        text_weight: share of the text embedding in a prototype, 0 (images alone) to 1; `search` takes the first best of
            `text_weights` on the validation images.
        text_weights: what `search` tries.
        scale: factor on the cosines.
    """

    needs_text = False

    def __init__(
        self,
        *,
        text_weight: float | Literal["search"] = 0.0,
        text_weights: Sequence[float] = TEXT_WEIGHTS,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        fixed = [text_weight] if isinstance(text_weight, (int, float)) else list(text_weights)
        if not fixed or not all(0 <= value <= 1 for value in fixed):
            raise ValueError(f"task.text_weight and task.text_weights are shares in [0, 1]; {fixed} is not")
        self.text_weight = text_weight
        self.text_weights = tuple(float(value) for value in text_weights)
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Average the support of each class, and mix in its text."""
        support = episode.support
        if episode.text is None and self.text_weight != 0:
            raise UserError(f"task.text_weight={self.text_weight}: the data give no text; task.text_weight=0")
        if self.text_weight == 0:
            refuse_empty_classes(episode)
        means = class_means(support.features, support.labels, episode.num_classes)
        weight, found = self._weight(means, episode)
        return {"prototypes": mixed_prototypes(means, episode.text, weight), "text_weight": weight, **found}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return scale * cosine."""
        return text_logits(features, state["prototypes"], self.scale)

    def _weight(self, means: Tensor, episode: Episode) -> tuple[Tensor, State]:
        if self.text_weight != "search":
            return one_number(self.text_weight, means), {}
        if episode.validation is None:
            warnings.warn(
                f"task.text_weight=search, but there are no validation images: {WITHOUT_VALIDATION} is taken",
                RunWarning,
                stacklevel=2,
            )
            return one_number(WITHOUT_VALIDATION, means), {}
        features, labels = episode.validation.features, episode.validation.labels
        tried = [
            accuracy(features @ mixed_prototypes(means, episode.text, one_number(weight, means)).mT, labels)
            for weight in self.text_weights
        ]
        best, place = first_best(torch.stack(tried, dim=-1))
        weights = torch.tensor(self.text_weights, dtype=torch.float64, device=means.device)
        return weights[place], {"validation_accuracy": best}
