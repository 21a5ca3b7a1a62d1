"""Training speed of the framework against a plain PyTorch loop: same network, data, precision, in one process, in turn.

    python benchmarks/training_speed.py --rounds 5 --batches 40

Prints images per second of both (medians over rounds) and their ratio. The images are random numbers of CIFAR-10's
size: what is measured is reading, augmenting and training, not learning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.base import LabelledImages, RetrievalDataModule
from datamodules.images.source import ImageArray
from launch.compose import compose_config
from modes import build
from modes.train import quieten_lightning

BATCH_SIZE = 128
IMAGES = 20_000


class RandomImages(RetrievalDataModule):
    """Random images of CIFAR-10's size, all of them for training."""

    protocol_name = "random"

    def load(self) -> LabelledImages:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (IMAGES,), generator=generator)
        return LabelledImages(ImageArray(images, labels, self.image_size), tuple("abcdefghij"))

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"train": torch.arange(IMAGES), "query": torch.arange(10), "database": torch.arange(10)}


class Stopwatch(L.Callback):
    """Time from the end of the first batch to the end of the last."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        self.ends.append(time.perf_counter())

    @property
    def images_per_second(self) -> float:
        return BATCH_SIZE * (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])


def framework(settings: dict, data: RandomImages) -> float:
    """Return images per second of the framework, with the callbacks of every run."""
    L.seed_everything(0, verbose=False)
    task = build.build_task(settings, build.build_backbone(settings), data)
    trainer = build.build_trainer(settings, data)
    stopwatch = Stopwatch()
    trainer.callbacks.append(stopwatch)
    trainer.fit(task, datamodule=data)
    return stopwatch.images_per_second


class PlainNetwork(nn.Module):
    """The backbone with GreedyHash's two linear layers."""

    def __init__(self, backbone: nn.Module, bits: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.hash_layer = nn.Linear(64, bits)
        self.classifier = nn.Linear(bits, 10, bias=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.hash_layer(self.backbone(images))
        return self.classifier(h.sign().detach() + h - h.detach()), h


def plain_loop(settings: dict, images: torch.Tensor, labels: torch.Tensor, batches: int) -> float:
    """Return images per second of a loop as one writes it in a notebook: crop, flip, bf16, SGD, nothing else."""
    torch.manual_seed(0)
    network = PlainNetwork(build.build_backbone(settings).network, settings["task"]["bits"])
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    ends = []
    for rows in torch.randperm(IMAGES)[: BATCH_SIZE * batches].split(BATCH_SIZE):
        batch = F.pad(images[rows], (4, 4, 4, 4))
        tops, lefts = torch.randint(9, (2, len(rows))).tolist()
        batch = torch.stack([x[:, i : i + 32, j : j + 32] for x, i, j in zip(batch, tops, lefts, strict=True)])
        batch = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, batch.flip(3), batch)
        batch = ((batch / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits, h = network(batch)
            loss = F.cross_entropy(logits, labels[rows]) + 0.1 * ((h.abs() - 1).abs() ** 3).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return BATCH_SIZE * (len(ends) - 1) / (ends[-1] - ends[0])


def settings_for(batches: int, directory: str) -> dict:
    """Return the configuration of the CIFAR-10 experiment, cut to `batches`."""
    config = compose_config(
        [
            "experiment=hashing/greedyhash_cifar10_resnet32",
            "trainer.accelerator=cpu",
            "trainer.max_epochs=1",
            f"trainer.limit_train_batches={batches}",
            f"paths.run_dir='{directory}'",
            "callbacks.progress=null",
        ]
    )
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return settings


def main() -> None:
    """Measure both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn (default 5)")
    parser.add_argument("--batches", type=int, default=40, help="batches per measurement (default 40)")
    arguments = parser.parse_args()
    quieten_lightning()
    warnings.filterwarnings("ignore")
    augment = {"crop_padding": 4, "horizontal_flip": True}
    data = RandomImages(image_size=32, seed=0, batch_size=BATCH_SIZE, augment=augment)
    data.setup()
    images, labels = data.data.source.pictures(torch.arange(IMAGES)), data.labels("train")
    speeds: dict[str, list[float]] = {"framework": [], "plain loop": []}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            settings = settings_for(arguments.batches, directory)
            speeds["framework"].append(framework(settings, data))
        speeds["plain loop"].append(plain_loop(settings, images, labels, arguments.batches))
        print(f"round {number + 1}: " + ", ".join(f"{name} {each[-1]:,.0f} images/s" for name, each in speeds.items()))
    ours, theirs = (statistics.median(each) for each in speeds.values())
    print(f"framework {ours:,.0f}, plain loop {theirs:,.0f} images/s (medians); ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
