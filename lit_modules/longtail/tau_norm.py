"""tau-normalisation: the class weights of a plain training divided by a power of their length, without any training.

Loss: none; logits w_c·f / |w_c|^τ

Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, eq. 4.
https://arxiv.org/abs/1910.09217
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.classifier import LinearClassifier
from lit_modules.longtail.retrained_classifier import RetrainedClassifier, Settings
from lit_modules.precision import full_precision, precise_type
from records.errors import UserError

TAUS: tuple[Settings, ...] = tuple({"tau": tenths / 10} for tenths in range(21))
"""What is tried on a validation part: 0 to 2 in steps of 0.1, as in the authors' code."""


def tau_normalised_logits(features: Tensor, weight: Tensor, tau: float) -> Tensor:
    """Return f . w_c / |w_c|^tau (B, C) of features (B, D) and class weights (C, D); the bias is left out (eq. 4).

    At tau = 0 these are the plain logits without bias, at tau = 1 directions alone count.
    """
    return F.linear(features, weight) / weight.norm(dim=1).pow(tau)


class TauNormalisation(RetrainedClassifier):
    """Cross-entropy, judged by tau-normalised logits; with `init_from` nothing is trained (freeze=all).

    Args:
        tau: the power, 0 or more; None chooses it on the validation part.

    Raises:
        UserError: another classifier than `linear`.
        ValueError: tau is negative.
    """

    settings_key: ClassVar[str] = "task.tau=1.0"

    def __init__(self, *, tau: float | None = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        if tau is not None and not tau >= 0:
            raise ValueError(f"task.tau must be 0 or more, or null to choose it, not {tau}")
        if not isinstance(self.classifier, LinearClassifier):
            raise UserError(
                f"task.classifier={self.classifier_kind}: its class weights have no length to divide by; choose linear"
            )
        self.settings = TAUS[10] if tau is None else {"tau": tau}
        self.candidates = TAUS if tau is None else ()

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the plain logits."""
        logits = outputs["logits"]
        return {"loss": F.cross_entropy(logits, batch["label"], self.weights(logits))}

    def judged(self, outputs: Outputs, settings: Settings) -> Tensor:
        """Return the tau-normalised logits (B, C)."""
        features = outputs["features"]
        weight: Tensor = self.classifier.weight  # type: ignore[assignment]
        with full_precision(features):
            return tau_normalised_logits(features, weight.to(precise_type(features, weight)), settings["tau"])
