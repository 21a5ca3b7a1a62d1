# the field's construction draws from numpy's legacy global generator
# ruff: noqa: NPY002
from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.base import ImageDataModule, LabelledImages
from datamodules.cifar_lt import Cifar10LongTail, Cifar100LongTail
from datamodules.digits_lt import DigitsLongTail
from datamodules.files.cifar_files import CIFAR10, CIFAR100
from datamodules.images.source import ImageArray
from datamodules.long_tail import (
    LongTail,
    check_counts,
    counts_by_label,
    imbalance_factor,
    long_tailed_counts,
    order_of_classes,
    select_images,
)
from records.errors import UserError

RATIOS = (1, 10, 20, 50, 100, 200, 500)
TOTALS = {
    (10, "exp"): (50000, 20431, 17023, 13996, 12406, 11203, 10011),
    (10, "step"): (50000, 27500, 26250, 25500, 25250, 25125, 25050),
    (100, "exp"): (50000, 19573, 15907, 12608, 10847, 9502, 8155),
    (100, "step"): (50000, 27500, 26250, 25500, 25250, 25100, 25050),
}
CIFAR10_COUNTS = {
    10: (5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500),
    50: (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100),
    100: (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50),
    200: (5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25),
}


@pytest.mark.parametrize(("classes", "kind"), TOTALS)
def test_totals_are_those_of_the_field(classes: int, kind: Any) -> None:
    for ratio, total in zip(RATIOS, TOTALS[classes, kind], strict=True):
        for given in (ratio, 1 / ratio, float(ratio)):
            counts = long_tailed_counts(50000 / classes, classes, imbalance_factor(given), kind)
            assert sum(counts) == total


def test_counts_are_those_of_the_field_and_truncated_not_rounded() -> None:
    for ratio, counts in CIFAR10_COUNTS.items():
        assert tuple(long_tailed_counts(5000, 10, 1 / ratio)) == counts
    rounded = sum(round(500 * 0.01 ** (rank / 99)) for rank in range(100))
    assert rounded == 10899
    assert sum(long_tailed_counts(500, 100, 0.01)) == 10847


def test_exp_counts_equal_exact_arithmetic() -> None:
    # int(500 * 100^(-k/99)): the largest n with n^99 * 100^k <= 500^99
    for rank, count in enumerate(long_tailed_counts(500, 100, 0.01)):
        if rank in (0, 99):
            continue  # exact there, whichever way the double falls: asserted below
        bound = Fraction(500) ** 99 / Fraction(100) ** rank
        assert count**99 <= bound < (count + 1) ** 99
    assert long_tailed_counts(500, 100, 0.01)[0] == 500
    assert long_tailed_counts(500, 100, 0.01)[99] == 5


def test_groups_of_cifar100_have_the_sizes_that_are_printed_elsewhere() -> None:
    expected = {10: (69, 31, 0), 50: (41, 41, 18), 100: (35, 35, 30), 200: (30, 31, 39)}
    for ratio, sizes in expected.items():
        counts = np.array(long_tailed_counts(500, 100, 1 / ratio))
        assert ((counts > 100).sum(), ((counts <= 100) & (counts >= 20)).sum(), (counts < 20).sum()) == sizes


def test_step_keeps_every_class_where_their_number_is_odd() -> None:
    assert long_tailed_counts(100, 7, 0.1, "step") == [100, 100, 100, 10, 10, 10, 10]
    assert long_tailed_counts(100, 3, 0.5, "none") == [100, 100, 100]
    assert long_tailed_counts(100, 1, 0.5) == [100]


@pytest.mark.parametrize("given", [0, -5, 0.0, math.nan, math.inf, "100", None, True, [100]])
def test_a_ratio_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match=r"data\.imbalance_ratio is .*100.*0\.01"):
        imbalance_factor(given)


def test_a_ratio_may_be_given_either_way_round() -> None:
    assert [imbalance_factor(given) for given in (100, 100.0, 0.01, 1, 1.0, 2)] == [0.01, 0.01, 0.01, 1, 1, 0.5]


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UserError, match="imbalance_type is 'linear'; the choices are exp, step, none"):
        long_tailed_counts(10, 3, 0.5, "linear")  # type: ignore[arg-type]


def field_selection(labels: np.ndarray, counts: list[int]) -> np.ndarray:
    """The field's way: the global generator, seeded once, and one list of places per class."""
    state = np.random.get_state()
    np.random.seed(0)
    kept: list[int] = []
    for label in range(len(counts)):
        places = np.array([place for place, one in enumerate(labels.tolist()) if one == label])
        np.random.shuffle(places)
        kept += places[: counts[label]].tolist()
    np.random.set_state(state)
    return np.array(kept)


def test_the_selected_images_are_those_of_the_field() -> None:
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(20), 60))
    counts = long_tailed_counts(60, 20, 0.02)
    assert np.array_equal(select_images(labels, counts), field_selection(labels, counts))
    assert not np.array_equal(select_images(labels, counts, seed=1), field_selection(labels, counts))


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    select_images(np.arange(10) % 2, [3, 2])
    assert np.array_equal(np.random.random(3), expected)


def test_classes_may_be_shuffled() -> None:
    assert order_of_classes(4) == [0, 1, 2, 3]
    shuffled = order_of_classes(10, 7)
    assert sorted(shuffled) == list(range(10))
    assert shuffled != list(range(10))
    assert shuffled == order_of_classes(10, 7)
    assert counts_by_label([9, 5, 1], [2, 0, 1]) == [5, 1, 9]


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"counts for 3 classes, and the train part has 2"):
        check_counts([1, 1, 1], [5, 5], "train", "imbalance_ratio")
    with pytest.raises(UserError, match=r"imbalance_ratio leaves 1 of 3 classes.*class 2\); take a ratio below 9"):
        check_counts([9, 3, 0], [9, 9, 9], "train", "imbalance_ratio")
    with pytest.raises(UserError, match=r"class 1 has 2 images in the train part, and 3 are wanted"):
        check_counts([9, 3, 1], [9, 2, 9], "train", "imbalance_ratio")


class ToyRecognition(ImageDataModule):
    """300 images of 5 classes, and 20 test images of each."""

    per_class = 60

    @property
    def protocol_name(self) -> str:
        return "toy"

    def load(self) -> LabelledImages:
        labels = torch.arange(5).repeat(self.per_class + 20)
        images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
        return LabelledImages(ImageArray(images, labels, self.image_size), tuple("abcde"))

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        size = 5 * self.per_class
        return {"train": torch.arange(size), "test": torch.arange(size, len(labels))}


class ToyLongTail(LongTail, ToyRecognition):
    """The wrapper on data of any kind is two lines."""


def toy(**settings: Any) -> ToyLongTail:
    return ToyLongTail(**{"image_size": None, "seed": 0, "batch_size": 8, **settings})


def test_any_single_label_data_can_be_wrapped() -> None:
    data = toy(imbalance_ratio=10)
    assert data.class_counts.tolist() == long_tailed_counts(60, 5, 0.1)
    assert data.sizes == {"train": sum(long_tailed_counts(60, 5, 0.1)), "test": 100}
    assert data.labels("train").tolist() == sorted(data.labels("train").tolist())
    assert data.protocol_name == "toy-exp-10"
    assert toy(imbalance_ratio=0.1).fingerprint == data.fingerprint
    assert toy(imbalance_ratio=0.1, imbalance_type="step").fingerprint != data.fingerprint


def test_the_test_part_may_be_imbalanced_either_way() -> None:
    forward = toy(imbalance_ratio=10, test_imbalance_ratio=5)
    backward = toy(imbalance_ratio=10, test_imbalance_ratio=5, test_order="backward")
    counts = long_tailed_counts(20, 5, 0.2)
    assert torch.bincount(forward.labels("test")).tolist() == counts
    assert torch.bincount(backward.labels("test")).tolist() == counts[::-1]
    assert forward.class_counts.tolist() == backward.class_counts.tolist()
    assert forward.protocol_name == "toy-exp-10-test-forward-5"
    assert backward.protocol_name == "toy-exp-10-test-backward-5"


def test_the_order_of_classes_follows_its_seed_in_training_and_test() -> None:
    data = toy(imbalance_ratio=10, class_order_seed=3, test_imbalance_ratio=5)
    by_size = order_of_classes(5, 3)
    assert [data.class_counts[label].item() for label in by_size] == long_tailed_counts(60, 5, 0.1)
    tested = torch.bincount(data.labels("test"))
    assert [tested[label].item() for label in by_size] == long_tailed_counts(20, 5, 0.2)


def test_class_counts_are_those_of_the_images_trained_on() -> None:
    whole, held = toy(imbalance_ratio=60), toy(imbalance_ratio=60, val_fraction=0.2)
    assert whole.class_counts.tolist() == [60, 21, 7, 2, 1]
    assert held.class_counts.sum() == held.sizes["train"] == whole.sizes["train"] - held.sizes["val"]
    assert held.class_counts[4] == 1  # a single image stays in training
    validation = torch.bincount(held.labels("val"), minlength=5)
    assert torch.equal(held.class_counts + validation, whole.class_counts)
    assert set(held.positions("val").tolist()) < set(whole.positions("train").tolist())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"imbalance_ratio": 0}, r"data\.imbalance_ratio is 0"),
        ({"imbalance_ratio": 100}, r"data\.imbalance_ratio leaves 1 of 5 classes .*below 60"),
        ({"imbalance_ratio": 2, "test_imbalance_ratio": 50}, r"test_imbalance_ratio leaves .*test part.*below 20"),
        ({"max_per_class": 61, "imbalance_ratio": 2}, r"class 0 has 60 images in the train part, and 61 are wanted"),
        ({"max_per_class": 0}, r"data\.max_per_class is 0"),
        ({"imbalance_type": "linear"}, r"data\.imbalance_type is 'linear'; the choices are exp, step, none"),
        ({"test_order": "up"}, r"data\.test_order is 'up'; the choices are forward, backward"),
    ],
)
def test_bad_settings_are_refused_by_key(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        toy(**settings).setup()


def test_a_fold_that_holds_out_the_only_image_of_a_class_is_refused() -> None:
    refused = []
    for fold in range(5):
        try:
            toy(imbalance_ratio=60, fold=fold).setup()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) == 1
    assert "1 of 5 classes have no training image, the first is class 4" in refused[0]


def test_digits_have_the_sizes_of_the_docstring() -> None:
    digits = DigitsLongTail(image_size=8, seed=0, imbalance_ratio=50)
    assert digits.class_counts.tolist() == [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]
    assert torch.bincount(digits.labels("test")).tolist() == [60] * 10
    assert not set(digits.positions("train").tolist()) & set(digits.positions("test").tolist())
    assert digits.val_splits == ()
    assert len(digits.test_dataloader()) == 1


def test_cifar_reads_both_layouts(tiny_cifar: Any, tmp_path: Path) -> None:
    tiny_cifar.write_binary(tmp_path)
    data = Cifar10LongTail(image_size=32, seed=0, root=tmp_path, verify="off", imbalance_ratio=5)
    assert data.class_counts.tolist() == long_tailed_counts(10, 10, 0.2)
    expected = field_selection(tiny_cifar.labels[:100], long_tailed_counts(10, 10, 0.2))
    assert data.positions("train").tolist() == expected.tolist()
    assert data.positions("test").tolist() == list(range(100, 120))
    assert data.protocol_name == "cifar10-exp-5"


def real_root(folders: tuple[Any, ...]) -> str:
    root = os.environ.get("DATA_DIR", "")
    if not any((Path(root) / choice.folder).is_dir() for choice in folders) or not root:
        pytest.skip(f"DATA_DIR does not name a folder that holds {folders[0].folder}")
    return root


@pytest.mark.real_data
def test_the_real_cifar100_lt_is_that_of_the_field() -> None:
    data = Cifar100LongTail(image_size=32, seed=0, root=real_root(CIFAR100), download=False)
    assert data.sizes == {"train": 10847, "test": 10000}
    labels = data.data.source.labels[:50000].numpy()
    expected = field_selection(labels, long_tailed_counts(500, 100, 0.01))
    assert np.array_equal(data.positions("train").numpy(), expected)


@pytest.mark.real_data
def test_the_real_cifar10_lt_is_that_of_the_field() -> None:
    data = Cifar10LongTail(image_size=32, seed=0, root=real_root(CIFAR10), download=False, verify="warn")
    assert data.sizes == {"train": 12406, "test": 10000}
    labels = data.data.source.labels[:50000].numpy()
    assert np.array_equal(data.positions("train").numpy(), field_selection(labels, list(CIFAR10_COUNTS[100])))
