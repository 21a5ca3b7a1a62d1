"""The same digits on 1, 2 and 3 ranks, with parts that do not divide and ranks without samples."""

import json
import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lit_modules.metrics.per_class import ClassRecognition

CLASSES, RANKS, SAMPLES = 5, 3, 101
CASES = ("uneven", "first rank has nothing", "padded")


def own_index(shares, rank, world_size):
    if world_size == 1:
        return torch.arange(SAMPLES)
    if shares == "first rank has nothing":
        return torch.arange(SAMPLES)[rank - 1 :: world_size - 1] if rank else torch.arange(0)
    if shares == "padded":
        per_rank = -(-SAMPLES // world_size)
        return (torch.arange(per_rank) * world_size + rank) % SAMPLES
    return torch.arange(SAMPLES)[rank::world_size]


def evaluate(shares, rank, world_size):
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(SAMPLES, CLASSES, generator=generator), torch.arange(SAMPLES) % CLASSES
    metric = ClassRecognition(bootstrap=50)
    metric.group_by([200, 150, 50, 10, 5])
    for chunk in own_index(shares, rank, world_size).split(4):
        if len(chunk):
            metric.update(logits[chunk], label[chunk], chunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = metric.compute()
    return {
        "metrics": {name: value.hex() for name, value in result.metrics.items()},
        "recalls": [value.hex() for value in result.recalls.tolist()],
        "confusion": result.confusion.tolist(),
        "confidence": [value.hex() for value in result.calibration.confidence_sums.tolist()],
    }


def run_rank(rank, folder):
    torch.set_num_threads(1)
    for world_size in range(1, RANKS + 1):
        if rank >= world_size:
            continue
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting_{world_size}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        answers = {shares: evaluate(shares, rank, world_size) for shares in CASES}
        dist.destroy_process_group()
        (folder / f"answers_{world_size}_{rank}.json").write_text(json.dumps(answers))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return {
        (world_size, rank): json.loads((folder / f"answers_{world_size}_{rank}.json").read_text())
        for world_size in range(1, RANKS + 1)
        for rank in range(world_size)
    }


@pytest.mark.parametrize("shares", CASES)
def test_every_rank_of_every_world_has_the_digits_of_one_process(answers, shares):
    alone = evaluate(shares, 0, 1)
    assert len(answers) == 6
    for ranks, answer in answers.items():
        assert answer[shares] == alone, ranks
