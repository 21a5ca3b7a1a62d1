"""What methods in two stages share: which stage is which, and that the second has something to start from."""

from __future__ import annotations

from typing import Literal

from lit_modules.backbones.backbone import Backbone
from records.errors import UserError

Stage = Literal[1, 2] | None


def check_stage(stage: int | None, first: str, second: str) -> None:
    """Raise UserError unless `stage` is 1, which trains `first`, 2, which trains `second`, or None."""
    if stage not in (None, 1, 2):
        raise UserError(f"task.stage={stage}: choose 1 ({first}), 2 ({second}), or null for both in turn")


def check_is_started(stage: int | None, backbone: Backbone, is_tried_out: bool = False) -> None:
    """Raise UserError where stage 2 is to train on a backbone with random weights.

    A `fast_dev_run`, which is tried out, leaves no checkpoint to start from.
    """
    if stage == 2 and not backbone.pretrained.used and not is_tried_out:
        raise UserError(
            "task.stage=2 builds on a trained backbone, and this one has random weights: name the run of stage 1 "
            "(init_from=RUN), or leave task.stage out to run both stages"
        )
