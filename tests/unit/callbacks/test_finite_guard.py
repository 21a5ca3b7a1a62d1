"""A non-finite loss or gradient never reaches the weights."""

import json

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from callbacks.finite_guard import FiniteGuard
from records.errors import UserError

BAD_BATCH = 3


class Line(L.LightningModule):
    """Fit a line; the batch that holds sample 7 has a poisoned loss or gradient."""

    def __init__(self, poison):
        super().__init__()
        self.poison = poison
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.history = []

    def training_step(self, batch, batch_idx):
        loss = (self.weight * batch["x"] - 1).pow(2).mean()
        if 7 in batch["index"]:
            root_of_zero = torch.sqrt(self.weight - self.weight).sum()  # finite, with an infinite gradient
            loss = loss + root_of_zero if self.poison == "gradient" else loss * self.poison
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.history.append(self.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(guard, poison, task=Line, **options):
    samples = [{"x": torch.tensor(0.5), "index": torch.tensor(i)} for i in range(12)]
    module = task(poison)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[guard], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    try:
        trainer.fit(module, DataLoader(samples, batch_size=2))
    except UserError as error:
        return module, error
    return module, None


@pytest.mark.parametrize(("poison", "what"), [(float("nan"), "loss"), (float("inf"), "loss"), ("gradient", "gradient")])
def test_stop_leaves_the_weights_of_the_step_before(tmp_path, poison, what):
    module, error = fit(FiniteGuard(str(tmp_path)), poison)
    assert "trainer.on_nonfinite=skip" in str(error)
    assert f"the {what} became" in str(error)
    assert module.weight.item() == module.history[-1]
    assert len(module.history) == BAD_BATCH
    written = json.loads((tmp_path / "nonfinite.json").read_text())
    assert written["samples"] == [6, 7]
    assert written["what"] == what


@pytest.mark.parametrize("poison", [float("nan"), "gradient"])
def test_skip_leaves_one_update_out_and_counts_it(tmp_path, poison):
    guard = FiniteGuard(str(tmp_path), "skip")
    module, error = fit(guard, poison)
    assert error is None
    assert guard.skipped == 1
    assert module.history[BAD_BATCH] == module.history[BAD_BATCH - 1]
    assert module.history[-1] != module.history[BAD_BATCH]
    assert all(torch.isfinite(torch.tensor(module.history)))


def test_accumulated_batches_are_all_named(tmp_path):
    _, error = fit(FiniteGuard(str(tmp_path)), float("nan"), accumulate_grad_batches=2)
    assert error is not None
    assert json.loads((tmp_path / "nonfinite.json").read_text())["samples"] == [4, 5, 6, 7]


def test_healthy_training_is_left_alone(tmp_path):
    guarded, _ = fit(FiniteGuard(str(tmp_path)), 1.0)
    plain, _ = fit(L.Callback(), 1.0)
    assert guarded.history == plain.history
    assert list(tmp_path.iterdir()) == []


def test_counts_survive_a_resume(tmp_path):
    guard = FiniteGuard(str(tmp_path), "skip")
    fit(guard, float("nan"))
    resumed = FiniteGuard(str(tmp_path), "skip")
    resumed.load_state_dict(guard.state_dict())
    assert (resumed.skipped, resumed.scaler_skips) == (1, 0)


class Normed(Line):
    """A line behind a batch norm, whose running statistics a bad batch would poison."""

    def __init__(self, poison):
        super().__init__(poison)
        self.norm = torch.nn.BatchNorm1d(1)
        self.statistics = []

    def training_step(self, batch, batch_idx):
        x = batch["x"][:, None]
        if 7 in batch["index"]:
            x = x * self.poison
        return (self.weight * self.norm(x) - 1).pow(2).mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.statistics.append(torch.cat([buffer.flatten() for buffer in self.norm.buffers()]))


@pytest.mark.parametrize(("accumulate", "bad", "before"), [(1, 3, 2), (2, 3, 1)])
def test_skip_puts_the_buffers_back(tmp_path, accumulate, bad, before):
    module, error = fit(FiniteGuard(str(tmp_path), "skip"), float("nan"), Normed, accumulate_grad_batches=accumulate)
    assert error is None
    assert torch.equal(module.statistics[bad], module.statistics[before])
    assert not torch.equal(module.statistics[bad + 1], module.statistics[bad])
    assert all(torch.isfinite(values).all() for values in (module.statistics[-1], module.norm.weight))


def half_precision(scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))


class Steps(Line):
    """A line whose gradient overflows as long as the loss scale is above 2**`poison`, its loss being finite."""

    def training_step(self, batch, batch_idx):
        loss = (self.weight * batch["x"] - 1).pow(2).mean()
        scale = self.trainer.precision_plugin.scaler.get_scale()
        return loss + torch.sqrt(self.weight - self.weight).sum() if scale > 2.0**self.poison else loss


def test_skips_of_the_loss_scaler_are_counted_and_no_fault(tmp_path):
    guard = FiniteGuard(str(tmp_path))
    module, error = fit(guard, 13, Steps, plugins=[half_precision(2.0**16)])
    assert error is None
    assert (guard.scaler_skips, guard.skipped) == (3, 0)
    assert module.history[:3] == [1.0] * 3
    assert module.history[3] != 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_collapsed_loss_scale_stops(tmp_path):
    guard = FiniteGuard(str(tmp_path))
    module, error = fit(guard, -100, Steps, plugins=[half_precision(2.0**-8)])
    assert "loss scale collapsed" in str(error)
    assert guard.scaler_skips == 4
    assert module.history == [1.0] * 3


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_non_finite_loss_is_a_fault_under_a_loss_scaler_too(tmp_path, action):
    guard = FiniteGuard(str(tmp_path), action)
    module, error = fit(guard, float("nan"), plugins=[half_precision(2.0**4)])
    assert (error is None) == (action == "skip")
    assert json.loads((tmp_path / "nonfinite.json").read_text())["what"] == "loss"
    assert guard.skipped == (1 if action == "skip" else 0)
    assert guard.scaler_skips == 0
    assert all(torch.isfinite(torch.tensor(module.history)))


def test_logged_counts(tmp_path):
    guard = FiniteGuard(str(tmp_path), "skip")
    logged = []
    module = Line(float("nan"))
    module.log_dict = logged.append
    guard.on_train_epoch_end(None, module)
    guard.skipped, guard.scaler_skips = 2, 3
    guard.on_train_epoch_end(None, module)
    assert logged == [{}, {"train/skipped_steps": 2.0, "train/scaler_skips": 3.0}]
