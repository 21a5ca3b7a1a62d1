"""Two ranks with batches of 4 keep the bank that one process with batches of 8 keeps, and both ranks the same one."""

import os
import warnings
from datetime import timedelta
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

from lit_modules.base import LabelSpace
from lit_modules.hashing.adsh import ADSH
from lit_modules.hashing.dfh import DFH
from lit_modules.hashing.dpsh import DPSH
from lit_modules.hashing.dsdh import DSDH
from lit_modules.metrics.hamming import HammingRetrieval

BITS, IMAGES, EPOCHS, BATCH, RANKS = 6, 16, 2, 8, 2
METHODS = {
    "dpsh": (DPSH, {}),
    "dfh": (DFH, {}),
    "dsdh": (DSDH, {"dcc_iterations": 2}),
    "adsh": (ADSH, {"num_samples": 10}),
}


class Features(nn.Identity):
    num_features = 4
    pretrained = SimpleNamespace(used=True)


def rows():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(IMAGES, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (IMAGES,), generator=generator)
    return [{"feature": features[i], "label": labels[i], "index": i} for i in range(IMAGES)]


def add_training(method):
    class Runnable(method):
        def encode(self, batch):
            return batch["feature"]

        def hash_values(self, features):
            return self.hash_layer(features)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def train_dataloader(self):
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            return DataLoader(rows()[rank::world_size], batch_size=BATCH // world_size)

    return Runnable


def train(name, ranks, folder):
    method, options = METHODS[name]
    torch.manual_seed(1)
    labels = LabelSpace(3, ("a", "b", "c"), (5, 5, 6), False, IMAGES)
    module = add_training(method)(
        backbone=Features(), labels=labels, optimization=None, metric=HammingRetrieval(BITS), bits=BITS,
        gather_batch=True, **options,
    ).double()  # fmt: skip
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto",
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    assert trainer.world_size == ranks
    return module.state_dict()


def run_rank(rank, folder):
    torch.set_num_threads(1)
    # Lightning takes a process group that exists, and starts no processes where the rank is given
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(RANKS)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    torch.save({name: train(name, RANKS, folder) for name in METHODS}, folder / f"states_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"states_{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", METHODS)
def test_banks_and_weights_are_those_of_one_process(name, states, tmp_path):
    single = train(name, 1, tmp_path)
    first, second = (of_rank[name] for of_rank in states)
    assert single["bank.seen"].all()
    for key, expected in single.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], expected, rtol=1e-9, atol=1e-9)
