"""A run that is struck anywhere and resumed by the line it printed or recorded ends bit-equal to one that was not."""

import pytest
import torch
from faulty_runs import RUN, Fault, record, repeat, start

from records.metrics_file import TIMING_COLUMNS, read_rows

STEP = "lit_modules.base.TaskModule.training_step"
LAST = "callbacks.checkpoints.LastCheckpoint.on_train_epoch_end"
SEEDING = "callbacks.epoch_seed.EpochSeed.on_train_epoch_start"
SAVING = "callbacks.checkpoint_io.AtomicCheckpointIO.save_checkpoint"

OPTIONS = {
    "plain": [],
    "workers": ["data.num_workers=2"],
    "ema": ["callbacks=ema"],
    "ema of the last epoch": ["callbacks=ema", "data.val_fraction=0"],
    "memory bank": ["task=dpsh"],
}
FAULTS = {
    "killed in the first epoch": Fault("SIGKILL", STEP, 0, call=2),
    "killed in an epoch": Fault("SIGKILL", STEP, 1, call=2),
    "killed in validation": Fault("SIGKILL", "lit_modules.hashing.base.HashingModule.validation_step", 1),
    "killed between best and last": Fault("SIGKILL", LAST, 1),
    "killed between checkpoint and table": Fault("SIGKILL", LAST, 1, after=True),
    "killed between epochs": Fault("SIGKILL", SEEDING, 2),
    "killed after the last checkpoint": Fault("SIGKILL", LAST, 2, after=True),
    "killed in the test": Fault("SIGKILL", "lit_modules.hashing.base.HashingModule.test_step", 3, call=1),
    "killed before the record is closed": Fault("SIGKILL", "records.result.RunRecord.finish", 3),
    "exception in an epoch": Fault("exception", STEP, 1, call=2),
    "exception between epochs": Fault("exception", SEEDING, 1),
    "SIGTERM in an epoch": Fault("SIGTERM", STEP, 1, call=2),
    "SIGTERM after the checkpoint": Fault("SIGTERM", LAST, 1, after=True),
    "SIGUSR1 in an epoch": Fault("SIGUSR1", STEP, 2, call=1),
    "SIGHUP in an epoch": Fault("SIGHUP", STEP, 1, call=1),
    "Ctrl-C before the first last": Fault("SIGINT", SAVING, 0, call=1),
    "Ctrl-C before a later last": Fault("SIGINT", SAVING, 1, call=3),
}
CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 143, "SIGINT": 130, "exception": 1}
STATUS = {"SIGKILL": "running", "exception": "failed"}

EVERYWHERE = ["killed in an epoch", "killed between checkpoint and table", "killed after the last checkpoint"]


def cases():
    chosen = [("plain", fault) for fault in FAULTS]
    chosen += [(options, fault) for options in OPTIONS if options != "plain" for fault in EVERYWHERE]
    return chosen


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    runs = {}

    def run(options):
        if options not in runs:
            runs[options] = tmp_path_factory.mktemp("straight") / "run"
            assert start(runs[options], *OPTIONS[options]).code == 0
        return runs[options]

    return run


def rows(directory):
    return [
        {name: value for name, value in row.items() if name not in TIMING_COLUMNS}
        for row in read_rows(directory / "metrics.csv")
    ]


def tensors(value, path=""):
    """Yield every tensor of a checkpoint with the place where it stands."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from tensors(item, f"{path}.{number}")


def assert_bit_equal(first, second):
    names = sorted(file.name for file in (first / "checkpoints").iterdir())
    assert sorted(file.name for file in (second / "checkpoints").iterdir()) == names
    for name in names:
        left, right = (
            dict(tensors(torch.load(run / "checkpoints" / name, weights_only=True))) for run in (first, second)
        )
        assert left.keys() == right.keys()
        assert len(left) > 10
        for place, tensor in left.items():
            assert torch.equal(tensor, right[place]), f"{name}{place}"
    assert record(first)["metrics"] == record(second)["metrics"]
    assert rows(first) == rows(second)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "fault"), cases())
def test_a_struck_run_resumes_exactly(options, fault, straight, tmp_path):
    fault = FAULTS[fault]
    struck = tmp_path / "run"
    ended = start(struck, *OPTIONS[options], fault=fault)
    assert ended.code == CODES[fault.kind], ended.err
    left = record(struck)
    assert left["status"] == STATUS.get(fault.kind, "interrupted")
    has_checkpoint = any((struck / "checkpoints").glob("*.ckpt"))
    line = f"python {RUN} mode=train run={struck}"
    assert left["resume_command"] == line
    if fault.kind != "SIGKILL":
        assert ended.err.rstrip().endswith(f"The last whole epoch is saved; this goes on from there:\n{line}")
    again = repeat(line, struck)
    assert again.code == 0, again.err
    assert ("Going on from the last whole epoch" in again.out) == has_checkpoint
    assert_bit_equal(straight(options), struck)
    (earlier,) = record(struck)["resumed_from"]
    assert earlier["status"] == ("killed" if fault.kind == "SIGKILL" else left["status"])
    assert [file.name for file in struck.rglob(".*")] == []
