from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "hashing"))
from small_tasks import BITS, small_task

from lit_modules.cost import costs, count_operations, learning_rates
from lit_modules.hashing.greedyhash import GreedyHash
from lit_modules.optimization import learning_rate_scheduler
from lit_modules.schedules import Cosine, Schedule, Step


@pytest.fixture
def task() -> Any:
    return small_task(GreedyHash)


def test_parts_add_up_to_the_whole(task: Any) -> None:
    task.freeze_backbone()
    parts = costs(task)
    assert sum(part.parameters for part in parts) == sum(one.numel() for one in task.parameters())
    assert {part.name for part in parts if part.trained} == {"hash_layer", "classifier"}
    assert [part.parameters for part in parts if part.name == "classifier"] == [4 * BITS]
    assert all(part.operations is None for part in parts)


@pytest.mark.parametrize("images", [1, 3])
def test_operations_are_those_counted_by_hand(task: Any, images: int) -> None:
    task.train()
    of = count_operations(task, torch.zeros(images, 3, 16, 16))
    assert task.training
    sides = sizes_of_convolutions(task)
    by_hand = 0
    for name, stage in task.backbone.network.named_children():
        convolutions = [layer for layer in stage.modules() if isinstance(layer, torch.nn.Conv2d)]
        own = sum(2 * layer.weight.numel() * sides[layer] for layer in convolutions)
        assert of(f"backbone.network.{name}") == own
        by_hand += own
    assert by_hand > 0
    by_hand += 2 * task.backbone.num_features * BITS + 2 * BITS * 4
    assert of("") == by_hand
    parts = costs(task, of)
    assert sum(part.operations or 0 for part in parts) == by_hand
    told = {part.name: part.operations for part in parts}
    assert told["hash_layer"] == 2 * task.backbone.num_features * BITS
    assert told["classifier"] == 2 * BITS * 4
    assert "outside of these" not in told


def test_operations_of_no_part_are_told_as_such(task: Any) -> None:
    of = count_operations(task, torch.zeros(2, 3, 16, 16))
    parts = costs(task, lambda name: of(name) + (0 if name else 7))
    assert (parts[-1].name, parts[-1].operations) == ("outside of these", 7)


def sizes_of_convolutions(task: Any) -> dict[torch.nn.Module, int]:
    """Return the pixels that each convolution gives."""
    found: dict[torch.nn.Module, int] = {}

    def keep(layer: torch.nn.Module, given: Any, result: torch.Tensor) -> None:
        found[layer] = result.shape[2] * result.shape[3]

    layers = [layer for layer in task.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    task({"image": torch.zeros(2, 3, 16, 16)})
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("schedule", [Cosine(warmup=0.25), Step([0.5], interval="epoch")])
def test_learning_rates_are_those_of_the_scheduler(task: Any, schedule: Schedule) -> None:
    object.__setattr__(task.optimization, "schedule", schedule)
    object.__setattr__(task.optimization, "backbone_lr_scale", 0.1)
    epochs, steps = 4, 6
    curves = learning_rates(task, steps, epochs)
    optimizer = torch.optim.SGD(task.trained_groups())
    total = epochs * steps if schedule.interval == "step" else epochs
    scheduler = learning_rate_scheduler(optimizer, schedule, total)
    seen: list[list[float]] = []
    for _ in range(total):
        seen.append(sorted({group["lr"] for group in optimizer.param_groups}, reverse=True))
        optimizer.step()
        scheduler.step()
    drawn = [[points[moment][1] for points in curves.values()] for moment in range(total)]
    for one, other in zip(drawn, seen, strict=True):
        assert one == pytest.approx(other)
    assert [points[-1][0] for points in curves.values()] == pytest.approx([epochs * (total - 1) / total] * 2)


def test_long_runs_are_thinned_and_keep_their_ends(task: Any) -> None:
    (points,) = learning_rates(task, 999, 7).values()
    assert len(points) <= 1000
    assert (points[0][0], points[-1][0]) == (0.0, pytest.approx(7 * (999 * 7 - 1) / (999 * 7)))
