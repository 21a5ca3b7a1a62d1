"""A run that is stopped after any epoch and resumed ends bit-equal to one that was not: every task, many options."""

import pytest
import torch

from callbacks.epoch_seed import EpochSeed
from launch.compose import compose_config
from launch.groups import choice_names
from launch.stored import stored_config
from modes import train
from records.metrics_file import TIMING_COLUMNS, read_rows
from records.result import read_result
from records.run_directory import open_run

EPOCHS = 3
SHORT = [
    "trainer.accelerator=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "data.augment={crop_padding: 2, horizontal_flip: true}",
    "callbacks.pictures=null",
]


def start(directory, *overrides):
    overrides = [*SHORT, *overrides]
    return train.run(compose_config([*overrides, f"paths.run_dir='{directory}'"]), overrides)


def resume(directory):
    config, problems = stored_config(open_run(directory), ("mode=train", f"run='{directory}'"))
    assert not problems
    return train.run(config, [])


def stop_at(monkeypatch, epoch, error):
    """Raise `error` at the start of one epoch, once."""
    seed_epoch = EpochSeed.on_train_epoch_start
    pending = [error]

    def stop(self, trainer, pl_module):
        if trainer.current_epoch == epoch and pending:
            raise pending.pop()
        seed_epoch(self, trainer, pl_module)

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", stop)


def assert_same_tensors(left, right, path="checkpoint"):
    if isinstance(left, torch.Tensor):
        assert torch.equal(left.nan_to_num(), right.nan_to_num()), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same_tensors(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same_tensors(a, b, f"{path}[{number}]")


def assert_equal_runs(straight, resumed):
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (straight, resumed)
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same_tensors(first[part], second[part], part)
    assert first.get("current_model_state", {}).keys() == second.get("current_model_state", {}).keys()
    assert read_result(straight).metrics == read_result(resumed).metrics
    tables = [
        [
            {name: value for name, value in row.items() if name not in TIMING_COLUMNS}
            for row in read_rows(folder / "metrics.csv")
        ]
        for folder in (straight, resumed)
    ]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("task", choice_names("task"))
def test_every_task_resumes_exactly(task, tmp_path, monkeypatch):
    assert start(tmp_path / "straight", f"task={task}") == 0
    stop_at(monkeypatch, 2, KeyboardInterrupt())
    assert start(tmp_path / "resumed", f"task={task}") == 130
    assert read_result(tmp_path / "resumed").status == "interrupted"
    assert resume(tmp_path / "resumed") == 0
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        ["data.num_workers=2"],
        ["callbacks=ema"],
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"],
        ["trainer.precision=bf16-mixed"],
        ["data.val_fraction=0"],
    ],
    ids=lambda options: options[0],
)
def test_options_resume_exactly(options, epoch, tmp_path, monkeypatch):
    assert start(tmp_path / "straight", *options) == 0
    stop_at(monkeypatch, epoch, RuntimeError("a fault"))
    assert start(tmp_path / "resumed", *options) == 1
    assert read_result(tmp_path / "resumed").reason == "RuntimeError: a fault"
    assert resume(tmp_path / "resumed") == 0
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")
