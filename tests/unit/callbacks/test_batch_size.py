"""The search for the largest batch, apart from whole runs (those are in tests/contract/test_options.py)."""

from types import SimpleNamespace

import pytest
import yaml

from callbacks.batch_size import LargestBatchSize
from records.errors import UserError


def test_several_processes_are_refused(tmp_path):
    trainer = SimpleNamespace(world_size=4, num_devices=2, num_nodes=2)
    with pytest.raises(UserError, match=r"trainer\.devices=2 with trainer\.num_nodes=2 starts 4"):
        LargestBatchSize(str(tmp_path)).setup(trainer, None, "fit")
    LargestBatchSize(str(tmp_path)).setup(trainer, None, "test")


def test_what_a_checkpoint_holds_is_taken_without_a_search(tmp_path):
    callback = LargestBatchSize(str(tmp_path))
    assert callback.state_dict() == {"found": None}
    callback.load_state_dict({"found": 96})
    built = []
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=2), strategy=SimpleNamespace(setup_optimizers=built.append)
    )
    callback.on_fit_start(trainer, None)
    assert trainer.datamodule.batch_size == 96
    assert built == [trainer], "the schedule is made for the new number of steps"
    assert list(tmp_path.iterdir()) == []


def test_what_is_found_replaces_one_value_of_the_stored_settings(tmp_path, monkeypatch):
    settings = {"task": {"name": "ü"}, "data": {"name": "digits", "batch_size": 2}, "seed": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    monkeypatch.setattr(
        LargestBatchSize,
        "scale_batch_size",
        lambda self, trainer, module: setattr(trainer.datamodule, "batch_size", 64),
    )
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=2),
        strategy=SimpleNamespace(setup_optimizers=lambda trainer: None),
        fast_dev_run=False,
    )
    callback = LargestBatchSize(str(tmp_path))
    callback.on_fit_start(trainer, None)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored == {**settings, "data": {"name": "digits", "batch_size": 64}}
    assert list(stored) == list(settings)
    assert callback.state_dict() == {"found": 64}
