"""The metrics table of a real task: an epoch is one row, and a resumed table equals a straight one."""

from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_runs import trainer

from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.metrics_table import MetricsTable, ResumedTable
from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace, TaskModule
from lit_modules.optimization import Optimization
from lit_modules.schedules import Cosine
from records.metrics_file import read_rows

CLASSES, IMAGES, BATCH = 3, 12, 4


class Linear(TaskModule):
    """Cross-entropy on the features; its validation metric is the share of positive logits."""

    def __init__(self):
        torch.manual_seed(0)
        labels = LabelSpace(CLASSES, tuple("abc"), (4,) * CLASSES, False, IMAGES)
        optimization = Optimization(partial(torch.optim.SGD), Cosine(), lr=0.1, weight_decay=0.0)
        super().__init__(build_backbone("own", "tiny", False, image_size=16, width=2), labels, optimization)
        self.classifier = nn.Linear(self.backbone.num_features, CLASSES)

    def head(self, features):
        return {"logits": self.classifier(features)}

    def loss(self, outputs, batch):
        return {"loss": nn.functional.cross_entropy(outputs["logits"], batch["label"])}

    def validation_step(self, batch, batch_idx):
        self.positive = (self(batch)["logits"] > 0).double().mean().item()

    def on_validation_epoch_end(self):
        self.log_metrics("val", {"positive": self.positive + 1 / 3})

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self):
        self.log_metrics("test", {"positive": self.positive})


class Stop(L.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise RuntimeError("a fault")


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(IMAGES, 3, 16, 16, generator=generator)
    samples = [
        {"image": pixels[i], "label": torch.tensor(i % CLASSES), "index": torch.tensor(i)} for i in range(IMAGES)
    ]
    return DataLoader(samples, batch_size=BATCH)


def fit(directory, extra=(), resume=False, **options):
    folder = str(directory / "checkpoints")
    callbacks = [*extra, ResumedTable(), BestCheckpoint(folder, "val/positive", "max"), LastCheckpoint(folder)]
    run = trainer(4, callbacks, MetricsTable(str(directory)), **options)
    checkpoint = directory / "checkpoints" / "last.ckpt" if resume else None
    run.fit(Linear(), images(), images(), ckpt_path=checkpoint, weights_only=True)
    return run


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 3), (2, 2)])
def test_validation_and_training_means_are_one_row(tmp_path, accumulate, steps):
    run = fit(tmp_path, accumulate_grad_batches=accumulate)
    run.test(run.lightning_module, images(), verbose=False)
    rows = read_rows(tmp_path / "metrics.csv")
    last = [(epoch, steps * (epoch + 1) - 1) for epoch in range(4)]
    assert [(row["epoch"], row["step"]) for row in rows] == [*last, (4, 4 * steps)]
    assert all({"train/loss", "val/positive"} <= set(row) for row in rows[:4])
    assert set(rows[4]) == {"epoch", "step", "test/positive"}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_table_equals_a_straight_one(tmp_path, accumulate):
    fit(tmp_path / "straight", accumulate_grad_batches=accumulate)
    with pytest.raises(RuntimeError, match="a fault"):
        fit(tmp_path / "resumed", [Stop()], accumulate_grad_batches=accumulate)
    best = fit(tmp_path / "resumed", resume=True, accumulate_grad_batches=accumulate).checkpoint_callbacks[0]
    straight, resumed = (read_rows(tmp_path / name / "metrics.csv") for name in ("straight", "resumed"))
    assert resumed == straight
    assert len(resumed) == 4
    assert best.best_score == max(row["val/positive"] for row in straight)
