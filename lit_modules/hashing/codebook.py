"""A fixed code for each class, which the methods with hash centres share: a buffer, so that a run resumes with it."""

from __future__ import annotations

import logging
import warnings

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.hashing.base import full_precision
from records.notices import RunWarning
from retrieval.centres import CentreRule, assign_centres, gilbert_varshamov_distance, make_centres, random_signs

LOG = logging.getLogger(__name__)


class Codebook(nn.Module):
    """A centre of -1 and 1 for each of C classes, and a random code that breaks ties between several classes.

    Args:
        num_classes: C.
        bits: K.
        seed: of the centres and of the tie breaker.
        rule: `best`, `half` or `bernoulli`, see `retrieval.centres.make_centres`.
        share: share of -1 in a random centre.

    Attributes:
        signs: float (C, K).
        tie: float (K,).
        min_distance: any two centres differed in at least this many bits when they were made.
    """

    signs: Tensor
    tie: Tensor

    def __init__(self, num_classes: int, bits: int, seed: int, rule: CentreRule = "best", share: float = 0.5) -> None:
        super().__init__()
        centres = make_centres(num_classes, bits, seed, rule, share)
        self.register_buffer("signs", torch.from_numpy(centres.signs).float())
        self.register_buffer("tie", torch.from_numpy(random_signs(bits, seed)).float())
        self.min_distance = centres.min_distance
        rank_zero_only(LOG.info)(
            f"{num_classes:,} hash centres of {bits} bits, {centres.construction}: any two differ in at least "
            f"{centres.min_distance} bits (the Gilbert-Varshamov bound promises "
            f"{gilbert_varshamov_distance(num_classes, bits)})"
        )
        if centres.min_distance == 0:
            rank_zero_only(warnings.warn)(
                f"some of the {num_classes:,} classes share a hash centre of {bits} bits and cannot be told apart; "
                "choose the centre rule `best`, more task.bits or another seed",
                RunWarning,
                stacklevel=2,
            )

    def forward(self, label: Tensor) -> Tensor:
        """Return each sample's centre (B, K) for label (B,) or multi-hot (B, C); zeros for one without any class."""
        return assign_centres(label, self.signs, self.tie)

    def cosine(self, h: Tensor) -> Tensor:
        """Return the cosine of h (B, K) with every centre (B, C) in [-1, 1], in float32 at least."""
        precise = torch.promote_types(torch.promote_types(h.dtype, self.signs.dtype), torch.float32)
        with full_precision(h):
            return F.normalize(h.to(precise)) @ F.normalize(self.signs.to(precise)).T
