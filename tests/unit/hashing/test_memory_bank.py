"""The bank keeps what is written, resumes, says its cost and refuses what does not fit."""

import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, Features, batch_of, build, draw
from torch.utils.data import DataLoader

from lit_modules.hashing import memory_bank, memory_cost
from lit_modules.hashing.adsh import ADSH
from lit_modules.hashing.dfh import DFH
from lit_modules.hashing.dpsh import DPSH, dpsh_loss
from lit_modules.hashing.dsdh import DSDH
from lit_modules.hashing.hashnet import HashNet
from lit_modules.hashing.memory_bank import NO_CLASS, MemoryBank, build_bank, last_occurrences, say_cost
from lit_modules.hashing.memory_cost import check_fits, free_bytes, readable_bytes
from lit_modules.hashing.similarity import shared_label
from records.errors import UserError
from records.notices import RunWarning


def test_rows_are_kept_without_gradient_and_the_others_wait():
    bank = MemoryBank(5, 2, 3, multi_label=False)
    values = torch.tensor([[1.0, -1.0], [2.0, 3.0]], requires_grad=True)
    bank.write(torch.tensor([3, 1]), values, torch.tensor([2, 0]))
    assert bank.values.tolist() == [[0, 0], [2, 3], [0, 0], [1, -1], [0, 0]]
    assert bank.labels.tolist() == [NO_CLASS, 0, NO_CLASS, 2, NO_CLASS]
    assert not bank.values.requires_grad
    seen_values, seen_labels = bank.read()
    assert seen_values.tolist() == [[2, 3], [1, -1]]
    assert seen_labels.tolist() == [0, 2]
    assert len(bank.read(unseen=True)[0]) == 5


def test_multi_hot_labels_are_kept():
    bank = MemoryBank(10, BITS, 3, multi_label=True)
    bank.write(torch.tensor([2, 7]), draw(2, BITS), MULTI_HOT[[2, 7]])
    assert torch.equal(bank.read()[1], MULTI_HOT[[2, 7]])


def test_the_last_row_of_an_image_that_is_drawn_twice_stays():
    bank = MemoryBank(4, 1, 3, multi_label=False)
    bank.write(torch.tensor([2, 0, 2, 2]), torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([1, 0, 1, 1]))
    assert bank.values.tolist() == [[2], [0], [4], [0]]
    assert last_occurrences(torch.tensor([5, 3, 5, 3, 9])).tolist() == [3, 2, 4]


def test_a_whole_bank_is_read_without_a_copy():
    bank = MemoryBank(2, 1, 3, multi_label=False)
    bank.write(torch.tensor([0, 1]), torch.ones(2, 1), torch.tensor([0, 1]))
    assert bank.read()[0].data_ptr() == bank.values.data_ptr()


def test_a_state_of_another_size_loads_for_tests_and_is_refused_for_training():
    trained, other = build(DPSH, size=10), build(DPSH, size=7)
    trained.loss({"h": draw(2, BITS)}, batch_of([9, 1]))
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.bank.values, trained.bank.values)
    with pytest.raises(UserError, match=r"10 rows, and data\.train has 7 images"):
        other.on_fit_start()


@pytest.mark.parametrize("multi_label", [False, True])
def test_before_the_bank_counts_a_batch_is_compared_with_itself_alone(multi_label, monkeypatch):
    labels = MULTI_HOT if multi_label else CLASS_NUMBERS
    task = build(DPSH, multi_label=multi_label, bank_from_epoch=2)
    task.loss({"h": draw(4, BITS, seed=1)}, batch_of([0, 1, 2, 3], multi_label))
    h, batch = draw(3, BITS, seed=2).requires_grad_(), batch_of([2, 5, 7], multi_label)
    for epoch, compared in ((1, [2, 5, 7]), (2, [0, 1, 2, 3, 5, 7])):
        monkeypatch.setattr(DPSH, "current_epoch", epoch)
        found = task.loss({"h": h}, batch)["loss"]
        similar = shared_label(batch["label"], labels[compared])
        torch.testing.assert_close(found, dpsh_loss(h, task.bank.values[compared], similar, 0.1)["loss"])
    assert torch.equal(task.bank.values[[2, 5, 7]], h.detach())


@pytest.mark.parametrize(("trained", "from_epoch", "warned"), [(False, 0, 1), (False, 5, 0), (True, 0, 0)])
def test_a_start_from_random_weights_is_warned_of(trained, from_epoch, warned, monkeypatch):
    task = build(DPSH, bank_from_epoch=from_epoch)
    monkeypatch.setattr(task.backbone, "pretrained", SimpleNamespace(used=trained))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task.on_fit_start()
    assert ["task.bank_from_epoch=10" in str(one.message) for one in caught] == [True] * warned


def test_an_epoch_below_zero_is_refused():
    with pytest.raises(ValueError, match="bank_from_epoch=-1"):
        build(DPSH, bank_from_epoch=-1)


def test_banks_that_would_differ_between_ranks_are_refused():
    with pytest.raises(UserError, match=r"task\.gather_batch=false"):
        build(DPSH, gather_batch=False)


def test_a_bank_that_does_not_fit_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(memory_cost, "free_bytes", lambda device: 10**9)
    labels = build(DPSH, size=10).labels
    huge = type(labels)(3, labels.class_names, labels.class_counts, False, 400_000_000)
    with pytest.raises(UserError, match=r"13\.2 GB are needed on cpu and 1\.0 GB are free.*task\.bits=6"):
        build_bank(MemoryBank, huge, BITS)


def test_a_step_that_does_not_fit_is_refused_before_it_is_taken(monkeypatch):
    module = build(DPSH)
    module._trainer = type("Trainer", (), {"world_size": 2})()
    monkeypatch.setattr(type(module), "trainer", property(lambda self: self._trainer))
    monkeypatch.setattr(memory_cost, "free_bytes", lambda device: 4 * 18 * 8 * 10 - 1)
    with pytest.raises(UserError, match=r"data\.batch_size"):
        module.on_train_batch_start(batch_of([0, 1, 2, 3]), 0)
    monkeypatch.setattr(memory_cost, "free_bytes", lambda device: 4 * 18 * 8 * 10)
    module.on_train_batch_start(batch_of([0, 1, 2, 3]), 0)


def test_memory_is_asked_for_where_the_system_tells(monkeypatch, tmp_path):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  8000 kB\nMemAvailable:   2000 kB\n")
    monkeypatch.setattr(memory_cost, "MEMORY_TABLE", table)
    assert free_bytes(torch.device("cpu")) == 2_048_000
    check_fits(2_048_000, torch.device("cpu"), "")
    with pytest.raises(UserError, match=r"2\.0 MB are needed on cpu and 2\.0 MB are free: take less"):
        check_fits(2_048_001, torch.device("cpu"), "take less")
    monkeypatch.setattr(memory_cost, "MEMORY_TABLE", tmp_path / "none")
    assert free_bytes(torch.device("cpu")) is None
    check_fits(10**18, torch.device("cpu"), "")


def test_the_cost_is_said_and_recorded_where_it_is_large(monkeypatch, capsys):
    bank = MemoryBank(1000, BITS, 3, multi_label=False)
    say_cost(bank, BITS)
    expected = (
        "Memory bank: 1,000 rows of 6 bits take 33.0 kB, and as much in each checkpoint; every step takes about "
        "72.0 kB per image of the batch"
    )
    assert capsys.readouterr().out.strip() == expected
    monkeypatch.setattr(memory_bank, "NOTEWORTHY_BYTES", 0)
    with pytest.warns(RunWarning, match="Memory bank: 1,000 rows"):
        say_cost(bank, BITS)
    assert readable_bytes(2_500_000_000) == "2.5 GB"


class SmallBackbone(Features):
    def depth_groups(self):
        return {}


def runnable(method, **options):
    """Build a method that trains on the ten rows' own features with plain gradient descent."""
    module = build(method, **options).float()
    module.backbone = SmallBackbone()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01)
    module.encode = lambda batch: batch["feature"]
    return module


def loader():
    features = draw(10, 4, seed=11).float()
    rows = [{"feature": features[i], "label": CLASS_NUMBERS[i], "index": i} for i in range(10)]
    return DataLoader(rows, batch_size=4)


def fit(module, epochs, folder, checkpoint=None):
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader(), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(folder / "state.ckpt")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (DPSH, {}),
        (DFH, {}),
        (DSDH, {"dcc_iterations": 2}),
        (ADSH, {"num_samples": 6}),
        (HashNet, {"epochs_per_stage": 1}),
    ],
    ids=["dpsh", "dfh", "dsdh", "adsh", "hashnet"],
)
def test_a_resumed_run_equals_a_straight_one(method, options, tmp_path):
    straight, first, resumed = (runnable(method, **options) for _ in range(3))
    for part in ("straight", "first"):
        (tmp_path / part).mkdir()
    fit(straight, 3, tmp_path / "straight")
    fit(first, 1, tmp_path / "first")
    fit(resumed, 3, tmp_path / "first", checkpoint=tmp_path / "first" / "state.ckpt")
    expected = straight.state_dict()
    assert expected.keys() == resumed.state_dict().keys()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(first.state_dict()["hash_layer.weight"], expected["hash_layer.weight"])
