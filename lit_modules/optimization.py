"""Optimizer and schedule of a task: parameter groups by depth and kind, and the learning rate over the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_modules.backbones.backbone import Backbone
from lit_modules.schedules import Schedule


@dataclass(frozen=True)
class Optimization:
    """How a task is optimised.

    `optimizer` makes the optimizer from parameter groups; `lr` is the head's learning rate; the backbone's is
    `backbone_lr_scale` times that, and `layer_decay` shrinks it further towards the input (Bao et al., BEiT, 2022).
    """

    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    schedule: Schedule
    lr: float
    weight_decay: float
    backbone_lr_scale: float = 1.0
    layer_decay: float | None = None
    decay_norm_and_bias: bool = True


def parameter_groups(
    module: nn.Module, backbone: Backbone, settings: Optimization, spared_names: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: parameters of equal learning rate and weight decay together, no frozen ones.

    `spared_names` and what the backbone names have no weight decay.
    """
    depths = {f"backbone.{name}": depth for name, depth in backbone.depth_groups().items()}
    undecayed = {f"backbone.{name}" for name in backbone.no_weight_decay()} | set(spared_names)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = settings.lr * _scale(depths.get(name), max(depths.values(), default=0), settings)
        spared = name in undecayed or (parameter.ndim <= 1 and not settings.decay_norm_and_bias)
        decay = 0.0 if spared else settings.weight_decay
        group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _scale(depth: int | None, deepest: int, settings: Optimization) -> float:
    """Return the multiple of the learning rate at `depth` of the backbone; 1 for what is not in the backbone."""
    if depth is None:
        return 1.0
    decay = 1.0 if settings.layer_decay is None else settings.layer_decay
    return settings.backbone_lr_scale * decay ** (deepest + 1 - depth)


def learning_rate_scheduler(optimizer: Optimizer, schedule: Schedule, total: int) -> LambdaLR:
    """Return the scheduler that follows `schedule` over `total` steps or epochs; its state is a step count alone."""

    def multiplier(done: int) -> float:
        return schedule.multiplier(min(done / total, 1.0), unit=1 / total)

    return LambdaLR(optimizer, multiplier)


def count_parameters(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Return the number of (all, trainable) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in parameters]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)
