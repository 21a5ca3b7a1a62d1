"""A small run to hang callbacks on: logistic regression on random data, always in the same order."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacks.checkpoint_io import AtomicCheckpointIO


class Points(Dataset):
    def __init__(self, count=24):
        random = torch.Generator().manual_seed(0)
        self.features = torch.randn(count, 4, generator=random)
        self.labels = (self.features.sum(dim=1) > 0).long()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        return {"feature": self.features[position], "label": self.labels[position], "index": position}


class Regression(L.LightningModule):
    def __init__(self, scores=(), interval="epoch"):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)
        self.scores = scores
        self.interval = interval

    def loss(self, batch):
        return nn.functional.cross_entropy(self.layer(batch["feature"]), batch["label"])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["index"]))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=len(batch["index"]))

    def on_validation_epoch_end(self):
        if self.scores and not self.trainer.sanity_checking:
            self.log("val/score", float(self.scores[self.trainer.current_epoch]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch), batch_size=len(batch["index"]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


def loader(count=24):
    return DataLoader(Points(count), batch_size=8)


def trainer(epochs, callbacks, logger=False, **options):
    return L.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        logger=logger,
        plugins=[AtomicCheckpointIO()],
        accelerator="cpu",
        devices=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"enable_progress_bar": False, **options},
    )
