"""The run that weights come from: its classes and images against those of the run that starts from it."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.sampling.splits import Splits, write_split_file
from modes.origin import check_classes, run_of_checkpoint, seen_images, warn_of_seen_images
from records.errors import UserError
from records.labels_file import KnownLabels, write_labels
from records.notices import RunWarning
from records.run_directory import RunDirectory

NAMES = ("cat", "dog", "owl")
LOADED = ("classifier.weight", "classifier.bias")


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    write_labels(directory, KnownLabels(NAMES, (5, 4, 3), False, {"train": 12}))
    directory.config.write_text("task: {}")
    return directory


def splits(train, validation=(), test=(), fingerprint="same"):
    parts = {"train": train, "validation": validation, "test": test}
    return Splits("protocol", 0, 0.0, fingerprint, {name: torch.tensor(part) for name, part in parts.items()})


def test_the_run_of_a_checkpoint_is_found_and_a_foreign_file_has_none(run, tmp_path):
    assert run_of_checkpoint(run.last_checkpoint).path == tmp_path
    assert run_of_checkpoint(tmp_path / "weights.pth") is None


def test_the_same_classes_pass_and_so_do_others_without_their_classifier(run, recwarn):
    check_classes(run, NAMES, LOADED, is_trained=True)
    check_classes(run, ("a", "b", "c"), ("hash_layer.weight",), is_trained=False)
    run.labels.unlink()
    check_classes(run, ("a", "b", "c"), LOADED, is_trained=False)
    assert not recwarn


def test_other_classes_are_counted_and_refused_where_nothing_is_trained(run):
    other = ("cat", "cow", "emu")
    with pytest.warns(RunWarning, match=r"2 of its 3 classes.*'dog' there and 'cow' here.*init_parts=backbone"):
        check_classes(run, other, LOADED, is_trained=True)
    with pytest.raises(UserError, match=r"2 of its 3 classes.*freeze=all"):
        check_classes(run, other, LOADED, is_trained=False)


def test_the_same_classes_in_another_order_are_refused(run):
    with pytest.raises(UserError, match=r"same in another order.*init_parts=backbone"):
        check_classes(run, ("dog", "cat", "owl"), LOADED, is_trained=True)


def test_images_that_the_run_was_trained_on_are_counted(run, tmp_path, recwarn):
    write_split_file(tmp_path / "splits" / "protocol.json", splits([0, 1, 2, 3, 9], [4, 5], [6, 7]))
    data = SimpleNamespace(splits=splits([0, 1, 4, 5], [2, 3, 6], [7, 8, 9]))
    with pytest.warns(RunWarning, match=r"2 of 3 of the validation part, 1 of 3 of the test part.*data\.split_seed"):
        warn_of_seen_images(run, data)
    recwarn.clear()
    for harmless in (
        SimpleNamespace(splits=splits([0, 1, 2, 3], [4, 5], [6, 7])),
        SimpleNamespace(splits=splits([0], [1], [2], fingerprint="other data")),
        SimpleNamespace(),
    ):
        warn_of_seen_images(run, harmless)
    assert not recwarn


def test_a_database_may_hold_the_training_images():
    own = Splits("p", 0, 0.0, "same", {"train": torch.tensor([0, 1]), "database": torch.tensor([0, 1, 2])})
    assert seen_images(own, splits([0, 1])) == {}
