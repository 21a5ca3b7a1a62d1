"""DFH: a margin on both sides of the pairs' likelihood, and codes pulled to class centres that are kept far apart.

Loss: mean log(1 + e^(m ∓ θ)) + η mean((b - h)²), θ = h·v/2, - for similar pairs; b = sign(μ centre_y + h)

Li, Pei, Zha and van Gemert, "Push for Quantization: Deep Fisher Hashing", BMVC 2019. https://arxiv.org/abs/1909.00206
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.base import Batch
from lit_modules.hashing.base import code_of
from lit_modules.hashing.memory_bank import MemoryBankHashing
from lit_modules.hashing.similarity import shared_label

CENTER_STEPS, CENTER_RATE, CENTER_DECAYS = 200, 0.03, (149, 179)
"""Gradient steps on the centres per batch, their rate, and after which of them it falls to a tenth."""

START_STD = 0.01


def dfh_loss(h: Tensor, values: Tensor, similar: Tensor, code: Tensor, margin: float, eta: float) -> dict[str, Tensor]:
    """Return the pairs' margin loss plus eta * mean((code - h)^2) as `loss`, and its two parts.

    With theta = h . v / 2 a similar pair costs log(1 + e^(margin - theta)), a dissimilar one log(1 + e^(margin +
    theta)); both terms are means, over pairs and over entries, as in swuxyj/DeepHash-pytorch. Exact for any theta,
    where that code clamps it.

    Args:
        h: real (B, K), with gradient.
        values: real (M, K), what h is compared with.
        similar: bool (B, M).
        code: (B, K) of -1 and 1, what h is pulled to.
        margin: m of the paper.
        eta: weight of the quantisation term.
    """
    theta = h @ values.T / 2
    pairs = -F.logsigmoid(theta.where(similar, -theta) - margin)
    metric, quantization = pairs.mean(), (code - h).square().mean()
    return {"loss": metric + eta * quantization, "metric": metric, "quantization": quantization}


def refine_centers(relaxed: Tensor, targets: Tensor, code: Tensor, inter_weight: float, sign_weight: float) -> Tensor:
    """Return relaxed class centres (C, K) after `CENTER_STEPS` gradient steps on one batch's codes.

    They minimise mean((Y V - B)^2) + inter_weight * mean((V V' - T)^2) + sign_weight * mean((V - sign V)^2): an image's
    code is the mean of its classes' centres, and T, K on the diagonal and -K beside it, keeps the centres apart. This
    is the gradient method of the authors' center.py; the discrete one beside it is left out.

    Args:
        relaxed: V, real (C, K).
        targets: Y, (B, C), see `class_shares`.
        code: B, (B, K) of -1 and 1.
        inter_weight: weight of the distance between classes, "vul" of the authors' code.
        sign_weight: weight of the pull to signs, "nta" of the authors' code.
    """
    classes, bits = relaxed.shape
    apart = bits * (2 * torch.eye(classes, dtype=relaxed.dtype, device=relaxed.device) - 1)
    together, wanted = targets.T @ targets, targets.T @ code
    # the published rate ends in NaN for few classes at many bits (4 at 128): there the curvature, 8 K / C^2, bounds it
    rate = min(CENTER_RATE, classes**2 / (8 * bits))
    for step in range(CENTER_STEPS):
        intra = 2 / code.numel() * (together @ relaxed - wanted)
        inter = 4 / classes**2 * (relaxed @ relaxed.T - apart) @ relaxed
        sign = 2 / relaxed.numel() * (relaxed - relaxed.sign())
        if step in CENTER_DECAYS:
            rate = 0.1 * rate
        relaxed = relaxed - rate * (intra + inter_weight * inter + sign_weight * sign)
    return relaxed


def class_shares(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 1 / (number of its classes) at each class of an image, (B, C), for label (B,) or multi-hot (B, C).

    A row without any class is 0. The authors' Main.py divides multi-hot rows in this way.
    """
    present = (F.one_hot(label, num_classes) if label.ndim == 1 else label).to(dtype)
    return present / present.sum(dim=1, keepdim=True).clamp(min=1)


class DFH(MemoryBankHashing):
    """DFH against a memory bank of all training images, with learned class centres.

    Images that share a label are similar, in multi-label data too, where an image's code follows the mean of its
    classes' centres. The code of a batch is the sign of mu * (its centres before this step) + h, without gradient.
    The centres cost 200 products (C, C) with (C, K) per step.

    The authors' code (github.com/liyunqianggyn/Push-for-Quantization-Deep-Fisher-Hashing) has no margin and mu 1;
    swuxyj/DeepHash-pytorch has margin 3, which codes of many classes cannot keep, and mu 0.1, with which the centres
    hardly turn a bit.

    Args:
        margin: m of the paper.
        mu: weight of the centres in the code.
        inter_weight: weight of the distance between centres.
        sign_weight: weight of the centres' pull to signs.
        eta: weight of the quantisation term.
        centers_start_at_zero_as_published: start the relaxed centres at exactly 0, where classes absent from the first
            batch have no direction but rounding's; by default they start at small random values of the run's seed.
        shared: arguments of `MemoryBankHashing`.
    """

    cost_of_step: ClassVar[str] = f", and {CENTER_STEPS} steps on the class centres"

    relaxed_centers: Tensor
    centers: Tensor

    def __init__(
        self,
        *,
        margin: float = 0.0,
        mu: float = 1.0,
        inter_weight: float = 1.0,
        sign_weight: float = 1.0,
        eta: float = 0.5,
        centers_start_at_zero_as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.margin = margin
        self.mu = mu
        self.inter_weight = inter_weight
        self.sign_weight = sign_weight
        self.eta = eta
        shape = (self.labels.num_classes, self.bits)
        start = torch.zeros(shape) if centers_start_at_zero_as_published else START_STD * torch.randn(shape)
        self.register_buffer("relaxed_centers", start)
        self.register_buffer("centers", torch.zeros(shape))

    def bank_loss(self, h: Tensor, batch: Batch, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss of the batch's codes under the present centres, then refine the centres."""
        label = batch["label"]
        targets = class_shares(label, self.labels.num_classes, h.dtype)
        code = code_of(self.mu * targets @ self.centers + h.detach())
        relaxed = refine_centers(self.relaxed_centers, targets, code, self.inter_weight, self.sign_weight)
        self.relaxed_centers.copy_(relaxed)
        self.centers.copy_(relaxed.sign())
        return dfh_loss(h, values, shared_label(label, labels), code, self.margin, self.eta)
