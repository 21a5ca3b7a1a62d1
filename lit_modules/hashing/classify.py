"""Plain classification: features, hash layer, linear classifier, cross-entropy; the codes are the hash layer's signs.

Loss: CE(W h)

The baseline that every supervised hashing method has to beat: nothing in its loss knows of bits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import HashingModule
from lit_modules.hashing.greedyhash import classification_loss
from lit_modules.precision import PreciseLinear


class Classify(HashingModule):
    """A linear classifier on the real values of the hash layer.

    Images of several classes have a softmax target spread evenly over them; one without any class counts 0.
    """

    def __init__(self, *, classifier_bias: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        self.classifier = PreciseLinear(self.bits, self.labels.num_classes, bias=classifier_bias)

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), real, and `logits` (B, C) of it."""
        h = self.hash_values(features)
        return {"h": h, "logits": self.classifier(h)}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the softmax cross-entropy."""
        return {"loss": classification_loss(outputs["logits"], batch["label"])}
