"""A share of things counted, from integer counts: the same digits on any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Share(Metric):
    """Counted things as a share of all; `compute` gives a fraction in float64, NaN before the first."""

    count: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, count: Tensor, total: int) -> None:
        """Add `count`, a whole number, of `total`."""
        self.count += count.to(torch.int64)
        self.total += total

    def compute(self) -> Tensor:
        """Return count / total."""
        return self.count.double() / self.total.double()
