import lightning as L
import pytest
from training_runs import Regression, loader, trainer

from callbacks.metrics_table import MetricsTable
from callbacks.throughput import Throughput
from records.metrics_file import read_rows


class Clock:
    """A clock that others move."""

    now = 0.0

    def __call__(self):
        return self.now


class Slow(L.Callback):
    """Work 3 s on each batch, wait 1 s for each, validate for 100 s."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_epoch_start(self, trainer, pl_module):
        self.clock.now += 1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.clock.now += 3

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.clock.now += 1 * (not trainer.is_last_batch)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.clock.now += 100


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1}])
def test_numbers_of_an_epoch(tmp_path, options):
    clock = Clock()
    run = trainer(
        2,
        [Throughput(clock), Slow(clock)],
        MetricsTable(str(tmp_path)),
        enable_checkpointing=False,
        **options,
    )
    run.fit(Regression(), loader(20), loader(16))
    rows = [row for row in read_rows(tmp_path / "metrics.csv") if "train/data_wait" in row]
    assert len(rows) == 2
    # 20 images in three batches; the wait before a validation is left out with it
    waited = 3 if not options else 1
    assert [row["train/images_per_second"] for row in rows] == pytest.approx([20 / (9 + waited)] * 2)
    assert [row["train/data_wait"] for row in rows] == pytest.approx([waited / (9 + waited)] * 2)


def test_real_clock_gives_shares_and_speeds(tmp_path):
    run = trainer(1, [Throughput()], MetricsTable(str(tmp_path)), enable_checkpointing=False)
    run.fit(Regression(), loader())
    (row,) = read_rows(tmp_path / "metrics.csv")
    assert 0 < row["train/data_wait"] < 1
    assert row["train/images_per_second"] > 0
