"""Constants of a method on whatever device it runs."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that is no state: copied to each device once, never saved, and never averaged as a buffer would be."""

    def __init__(self, value: Tensor) -> None:
        self._copies = {value.device: value}

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on `device`."""
        if device not in self._copies:
            self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]
