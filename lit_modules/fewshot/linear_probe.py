"""Linear probe: logistic regression on the features, by scikit-learn.

Loss: Σ -log softmax(W f + b)_y + |W|² / (2 C)

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, appendix A.3; the
search for C is that of Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022: powers of 100, then
steps of bisection around the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled
from lit_modules.fewshot.head import FewShotHead, State, count, positive, warn_of_no_validation

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


class LinearProbe(FewShotHead):
    """Multinomial logistic regression with an L2 penalty of strength 1 / C, solved by L-BFGS.

    Args:
        C: inverse strength of the penalty; `search` chooses it on the validation images.
        default_C: taken by `search` where there are no validation images; the run warns.
        bisections: steps of the fine search, each halving the interval [C / 10, 10 C] in log C.
        max_iterations: of L-BFGS.
    """

    needs_text = False
    uses_text = False
    needs_every_class = True

    def __init__(
        self,
        *,
        C: float | Literal["search"] = "search",
        default_C: float = 1.0,
        bisections: int = 8,
        max_iterations: int = 1000,
    ) -> None:
        super().__init__()
        self.C = C if C == "search" else positive("C", C)
        self.default_C = positive("default_C", default_C)
        self.bisections = count("bisections", bisections, least=0)
        self.max_iterations = count("max_iterations", max_iterations)

    def solve(self, episode: Episode) -> State:
        """Fit one regression for each problem of the episode."""
        support, watch = episode.support, episode.validation
        leading = support.labels.shape[:-1]
        problems = [
            self._solve_one(_problem(support, place), None if watch is None else _problem(watch, place))
            for place in np.ndindex(*leading)
        ]
        device = support.labels.device
        return {
            name: torch.stack([one[name] for one in problems]).reshape((*leading, *tensor.shape)).to(device)
            for name, tensor in problems[0].items()
        }

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the regression's logits."""
        return features @ state["weight"].mT + state["bias"].unsqueeze(-2)

    def _solve_one(self, support: tuple[np.ndarray, np.ndarray], watch: tuple[np.ndarray, np.ndarray] | None) -> State:
        if self.C == "search" and watch is not None:
            strength, reached = self._search(support, watch)
            found = {"validation_accuracy": torch.tensor(reached, dtype=torch.float64)}
        else:
            strength, found = self.default_C if isinstance(self.C, str) else self.C, {}
            if self.C == "search":
                warn_of_no_validation(f"task.default_C={self.default_C}")
        fitted = self._fit(support, strength)
        return {
            "weight": torch.from_numpy(_every_class(fitted.coef_)).to(torch.from_numpy(support[0]).dtype),
            "bias": torch.from_numpy(_every_class(fitted.intercept_)).to(torch.from_numpy(support[0]).dtype),
            "C": torch.tensor(strength, dtype=torch.float64),
            **found,
        }

    def _fit(self, support: tuple[np.ndarray, np.ndarray], strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=self.max_iterations).fit(*support)

    def _search(
        self, support: tuple[np.ndarray, np.ndarray], watch: tuple[np.ndarray, np.ndarray]
    ) -> tuple[float, float]:
        """Return the first C with the best validation accuracy among all that were tried, and that accuracy."""
        tried: dict[float, float] = {}

        def reached(exponent: float) -> float:
            strength = 10.0**exponent
            if strength not in tried:
                tried[strength] = float(self._fit(support, strength).score(*watch))
            return tried[strength]

        for strength in COARSE:
            reached(np.log10(strength))
        peak = np.log10(max(tried, key=tried.__getitem__))
        low, high = peak - 1, peak + 1
        for _ in range(self.bisections):
            middle = (low + high) / 2
            low, high = (middle, high) if reached(low) < reached(high) else (low, middle)
        best = max(tried, key=tried.__getitem__)
        return best, tried[best]


def _problem(labelled: Labelled, place: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return labelled.features[place].cpu().numpy(), labelled.labels[place].cpu().numpy()


def _every_class(parameters: np.ndarray) -> np.ndarray:
    """Return one row of parameters per class: of two classes scikit-learn keeps the second one's, as a difference."""
    return np.concatenate([-parameters, parameters]) / 2 if len(parameters) == 1 else parameters
