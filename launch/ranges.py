"""Numbers that Lightning, NumPy and PyTorch take without a word and then fail with, or train nonsense with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from launch.problems import Problem

RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # NumPy's
    "trainer.max_epochs": (0, math.inf),  # Lightning's -1 never ends, and a schedule is a share of the run
    "trainer.accumulate_grad_batches": (1, math.inf),
    "trainer.check_val_every_n_epoch": (1, math.inf),
    "trainer.gradient_clip_val": (0, math.inf),
    "optim.lr": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.backbone_lr_scale": (0, math.inf),
}
"""Key to the least and the greatest value; null is checked nowhere."""


def check_ranges(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each number of a resolved configuration that lies outside of its range, NaN too."""
    for key, (least, greatest) in RANGES.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)) and not least <= value <= greatest:
            allowed = f"at least {least}" if math.isinf(greatest) else f"between {least} and {greatest}"
            yield Problem(key, f"is {value}; it must be {allowed}")
