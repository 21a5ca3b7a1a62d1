"""What a network costs: parameters and floating-point operations, by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_modules.base import TaskModule
from lit_modules.optimization import count_parameters


@dataclass(frozen=True)
class PartCost:
    """A part of a task: parameters, those trained, and operations of the forward pass for one sample.

    A multiplication with its addition counts as two operations. `operations` is None where they are not known.
    """

    name: str
    parameters: int
    trained: int
    operations: int | None


def part_names(task: TaskModule) -> list[str]:
    """Return the parts that a task is told in: the children of its backbone's network, and its own other children."""
    names = []
    for name, child in task.named_children():
        network = getattr(child, "network", None) if name == "backbone" else None
        inside = network.named_children() if isinstance(network, nn.Module) else ()
        inner = [f"{name}.network.{part}" for part, _ in inside]
        names += inner or [name]
    return [name for name in names if next(task.get_submodule(name).parameters(), None) is not None]


def costs(task: TaskModule, operations: Callable[[str], int] | None = None) -> list[PartCost]:
    """Return the cost of every part, and last what belongs to none of them where there is such.

    Args:
        task: the whole.
        operations: name of a module to its operations for one sample, "" for the whole; None where they are not known.
    """
    parts = []
    for name in part_names(task):
        total, trained = count_parameters(task.get_submodule(name).parameters())
        parts.append(PartCost(name, total, trained, None if operations is None else operations(name)))
    total, trained = count_parameters(task.parameters())
    rest = total - sum(part.parameters for part in parts), trained - sum(part.trained for part in parts)
    done = None if operations is None else operations("") - sum(part.operations or 0 for part in parts)
    return [*parts, PartCost("outside of these", *rest, done)] if rest[0] or done else parts


def count_operations(task: TaskModule, images: Tensor) -> Callable[[str], int]:
    """Count the operations of the forward pass of images (B, 3, H, W), by module, for one image.

    Counted are products of matrices, convolutions and attention, as `torch.utils.flop_counter` does; what a module does
    outside of its children is its own.
    """
    was_training = task.training
    counter = FlopCounterMode(display=False)
    task.eval()
    with torch.no_grad(), counter:
        task({"image": images})
    task.train(was_training)
    found = counter.get_flop_counts()
    own = type(task).__name__

    def of(name: str) -> int:
        key = f"{own}.{name}" if name else "Global"
        return sum(found.get(key, {}).values()) // len(images)

    return of


def learning_rates(task: TaskModule, steps_per_epoch: int, epochs: int) -> dict[str, list[tuple[float, float]]]:
    """Return the learning rate over the run for each different peak of the parameter groups, highest first.

    Args:
        task: with its optimization.
        steps_per_epoch: optimizer steps.
        epochs: of the run.

    Returns:
        How many parameters, in words, to points (epoch, learning rate); a run of more than 500 steps is thinned out.
    """
    schedule = task.optimization.schedule
    peaks: dict[float, int] = {}
    for group in task.trained_groups():
        rate = float(group["lr"])
        peaks[rate] = peaks.get(rate, 0) + sum(parameter.numel() for parameter in group["params"])
    by_step = schedule.interval == "step"
    total = steps_per_epoch * epochs if by_step else epochs
    moments = _thinned(range(total), 500)
    return {
        f"{count:,} up to {peak:g}": [
            (moment * epochs / total, peak * schedule.multiplier(moment / total, unit=1 / total)) for moment in moments
        ]
        for peak, count in sorted(peaks.items(), reverse=True)
    }


def _thinned(moments: Sequence[int], most: int) -> list[int]:
    stride = max(1, len(moments) // most)
    return sorted({*moments[::stride], *moments[-1:]})
