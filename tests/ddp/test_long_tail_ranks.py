"""Losses over the whole batch, and blended images, give two ranks with batches of 4 what one process with 8 has."""

import os
import warnings
from datetime import timedelta

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

from lit_modules.base import LabelSpace
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.gml import GML
from lit_modules.longtail.lade import LADE
from lit_modules.longtail.paco import PaCo
from lit_modules.metrics.per_class import ClassRecognition

IMAGES, EPOCHS, BATCH, RANKS = 16, 2, 8, 2
METHODS = {
    "gml": (GML, {}),
    "lade": (LADE, {}),
    "paco": (PaCo, {"queue_size": 12, "momentum": 0.9}),
    "mixup": (CrossEntropy, {"mixup_alpha": 1.0, "gather_batch": False}),
    "gml with mixup": (GML, {"mixup_alpha": 1.0}),
}
VIEWS = 2


class Features(nn.Identity):
    num_features = 4


def rows():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(IMAGES, VIEWS, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (IMAGES,), generator=generator)
    return [{"views": views[i], "image": views[i, 0], "label": labels[i], "index": i} for i in range(IMAGES)]


def collate(samples):
    batch = torch.utils.data.default_collate(samples)
    return batch | {"views": batch["views"].transpose(0, 1).contiguous()}


def add_training(method):
    class Runnable(method):
        def configure_optimizers(self):
            trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.SGD(trainable, lr=0.05)

        def train_dataloader(self):
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            return DataLoader(rows()[rank::world_size], batch_size=BATCH // world_size, collate_fn=collate)

    return Runnable


def train(name, ranks, folder):
    method, options = METHODS[name]
    torch.manual_seed(1)
    labels = LabelSpace(3, ("a", "b", "c"), (9, 5, 2), False, IMAGES)
    module = add_training(method)(
        backbone=Features(), labels=labels, optimization=None, metric=ClassRecognition(),
        **{"gather_batch": True, **options},
    ).double()  # fmt: skip
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto",
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    logged = {key: value.double() for key, value in trainer.callback_metrics.items()}
    return module.state_dict() | logged


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
def test_weights_queue_and_training_metrics_are_those_of_one_process(name, states, tmp_path):
    single = train(name, 1, tmp_path)
    first, second = (of_rank[name] for of_rank in states)
    assert {"train/loss", "train/accuracy", "train/lowest_recall"} <= set(single)
    for key, expected in single.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key].double(), expected.double(), rtol=1e-6, atol=1e-7)
