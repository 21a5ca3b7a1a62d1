"""DSDH: DPSH's likelihood, with codes that are found bit by bit to be linearly classifiable and that pull the values.

Loss: mean(log(1 + e^θ) - s θ) + η sum((b - h)²) / (N B), θ = h·v/2; b minimises μ |Y - b W|² + ν |W|² + η |b - h|²

Li, Sun, He and Tan, "Deep Supervised Discrete Hashing", NIPS 2017.
https://papers.nips.cc/paper/6842-deep-supervised-discrete-hashing.pdf
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import full_precision
from lit_modules.hashing.discrete_codes import descend_bits
from lit_modules.hashing.memory_bank import BankedHashing, CodeBank, MemoryBank
from lit_modules.hashing.similarity import pair_likelihood, shared_label


def class_sums(codes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return B'Y (K, C), the sum of codes B (N, K) over the images of each class; labels (N,) or (N, C)."""
    if labels.ndim == 2:
        return codes.T @ labels.to(codes.dtype)
    return codes.new_zeros(num_classes, codes.shape[1]).index_add_(0, labels, codes).T


def class_rows(weights: Tensor, labels: Tensor) -> Tensor:
    """Return Y W' (N, K), the sum of the columns of weights W (K, C) over each image's classes."""
    return labels.to(weights.dtype) @ weights.T if labels.ndim == 2 else weights.T[labels]


def ridge_classifier(codes: Tensor, labels: Tensor, num_classes: int, ridge: float) -> Tensor:
    """Return W (K, C) that minimises |Y - B W|^2 + ridge |W|^2 for codes B (N, K) and labels Y (N,) or (N, C)."""
    gram = codes.T @ codes
    gram.diagonal().add_(ridge)
    return torch.linalg.solve(gram, class_sums(codes, labels, num_classes))


def update_bits(codes: Tensor, values: Tensor, labels: Tensor, weights: Tensor, pull: float) -> Tensor:
    """Return codes (N, K) after one pass over the bits, each set to its optimum given all others.

    Minimises |Y - B W|^2 + pull |B - U|^2.

    Args:
        codes: B, (N, K) of -1 and 1, or 0 for no code yet.
        values: U, real (N, K).
        labels: Y, (N,) or (N, C).
        weights: W, real (K, C).
        pull: eta / mu of the paper.
    """
    wanted = class_rows(weights, labels) + pull * values
    return descend_bits(codes, wanted, weights @ weights.T)


def dsdh_loss(h: Tensor, values: Tensor, similar: Tensor, code: Tensor, eta: float, size: int) -> dict[str, Tensor]:
    """Return the paper's objective as far as h has a part in it, over the number of pairs, and its two parts.

    The mean over pairs of the negative log-likelihood under sigmoid(h . v / 2), plus eta * |code - h|^2 / (B * size).
    The classifier's terms hold only discrete codes: they reach h through the codes that it is pulled to.

    Args:
        h: real (B, K), with gradient.
        values: real (M, K), what h is compared with.
        similar: bool (B, M).
        code: (B, K) of -1 and 1, the codes found for the batch.
        eta: weight of the pull to the codes; 0 in swuxyj/DeepHash-pytorch, whose codes have no effect on h.
        size: number of training images, whose pairs the paper sums over.
    """
    likelihood = pair_likelihood(h @ values.T / 2, similar).mean()
    quantization = (code - h).square().sum() / (len(h) * size)
    return {"loss": likelihood + eta * quantization, "likelihood": likelihood, "quantization": quantization}


class DSDH(BankedHashing):
    """DSDH against a memory bank of all training images, with a discrete code for each of them.

    Each step updates classifier and codes of the whole bank in turn, until nothing changes or `dcc_iterations` times.
    Images that share a label are similar, in multi-label data too, where the classifier's target is the multi-hot row.

    Args:
        mu: weight of the classification error.
        nu: weight of the classifier's norm.
        eta: weight of the pull of values and codes to each other.
        dcc_iterations: most updates of classifier and codes per step.
        likelihood_gradient_only_as_published: leave the pull to the codes out of the loss, so that they have no effect.
        count_unseen_rows: rows of images not seen yet count as values of 0 without any class, as in the published
            code; by default they are left out.
        shared: arguments of `HashingModule`.

    Raises:
        ValueError: mu is not above 0.
    """

    bank: CodeBank
    bank_type: ClassVar[type[MemoryBank]] = CodeBank
    cost_of_step: ClassVar[str] = ", and finds the codes of all rows anew, bit by bit"

    def __init__(
        self,
        *,
        mu: float = 1.0,
        nu: float = 1.0,
        eta: float = 55.0,
        dcc_iterations: int = 10,
        likelihood_gradient_only_as_published: bool = False,
        count_unseen_rows: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if mu <= 0:
            raise ValueError(f"task.mu={mu}: the weight of the classification error is above 0")
        self.mu = mu
        self.nu = nu
        self.eta = eta
        self.dcc_iterations = dcc_iterations
        self.count_unseen_rows = count_unseen_rows
        self.pull = 0.0 if likelihood_gradient_only_as_published else eta

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Write the batch into the bank, update the codes of the bank, and return the loss under them, in float32."""
        h, label, index = outputs["h"], batch["label"], batch["index"]
        self.bank.write(index, h, label)
        with full_precision(h):
            self._update_codes()
            values, labels = self.bank.read(self.count_unseen_rows)
            similar = shared_label(label, labels)
            return dsdh_loss(h, values, similar, self.bank.codes[index], self.pull, len(self.bank))

    @torch.no_grad()
    def _update_codes(self) -> None:
        rows = self.bank.counted()
        codes, values, labels = self.bank.codes[rows], self.bank.values[rows], self.bank.labels[rows]
        for _ in range(self.dcc_iterations):
            weights = ridge_classifier(codes, labels, self.labels.num_classes, self.nu / self.mu)
            updated = update_bits(codes, values, labels, weights, self.eta / self.mu)
            if torch.equal(updated, codes):
                break  # the same codes have the same classifier, so that no later update changes anything
            codes = updated
        self.bank.codes[rows] = codes
