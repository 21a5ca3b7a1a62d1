"""The same digits on 1, 2 and 3 ranks, with parts that do not divide and ranks without samples of a part."""

import json
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lit_modules.metrics.hamming import HammingRetrieval

BITS, RANKS = 20, 3
SIZES = {"query": 10, "database": 101}
CASES = {
    "single labels": {"multi_label": False, "shares": "uneven"},
    "multi-hot labels": {"multi_label": True, "shares": "uneven"},
    "all queries on one rank": {"multi_label": False, "shares": "last rank has no query"},
    "first rank has nothing": {"multi_label": True, "shares": "first rank has nothing"},
    "padded": {"multi_label": False, "shares": "padded"},
}


def part_samples(part, multi_label):
    generator = torch.Generator().manual_seed(len(part))
    rows = SIZES[part]
    labels = torch.randint(0, 5, (rows,), generator=generator)
    if multi_label:
        labels = torch.nn.functional.one_hot(labels, 70).float()
    return torch.randn(rows, BITS, generator=generator), labels


def own_index(part, shares, rank, world_size):
    rows = SIZES[part]
    if world_size == 1:
        return torch.arange(rows)
    if shares == "last rank has no query" and part == "query":
        return torch.arange(rows) if rank == 0 else torch.arange(0)
    if shares == "first rank has nothing":
        return torch.arange(rows)[rank - 1 :: world_size - 1] if rank else torch.arange(0)
    if shares == "padded":
        per_rank = -(-rows // world_size)
        return (torch.arange(per_rank) * world_size + rank) % rows
    return torch.arange(rows)[rank::world_size]


def evaluate(multi_label, shares, rank, world_size):
    metric = HammingRetrieval(
        BITS,
        cuts=("all", 7),
        precision_at=(5,),
        ndcg_at=(9,),
        radius=6,
        asymmetric=True,
        rerank=20,
        bootstrap=40,
    )
    for part in SIZES:
        values, labels = part_samples(part, multi_label)
        features = values[:, :6].exp()
        for chunk in own_index(part, shares, rank, world_size).split(4):
            if len(chunk):
                metric.update(values[chunk], labels[chunk], chunk, part, features[chunk])
    result = metric.compute()
    again = metric.compute()
    assert again.metrics == result.metrics
    return {
        "metrics": {name: value.hex() for name, value in result.metrics.items()},
        "precision": [value.hex() for value in result.curve.precision.tolist()],
        "codes": result.database.codes.tolist(),
        "labels": result.database.labels.tolist(),
        "sizes": [result.num_queries, result.num_database],
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
        answers = {name: evaluate(rank=rank, world_size=world_size, **case) for name, case in CASES.items()}
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


@pytest.mark.parametrize("case", CASES)
def test_every_rank_of_every_world_has_the_digits_of_one_process(answers, case):
    alone = evaluate(rank=0, world_size=1, **CASES[case])
    assert alone["sizes"] == list(SIZES.values())
    assert len(answers) == 6
    for ranks, answer in answers.items():
        assert answer[case] == alone, ranks
