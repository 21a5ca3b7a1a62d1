from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.encoded.few_shot import FewShotDataModule, Pools, draw_few_shot, validation_shots
from datamodules.sampling.splits import read_split_file
from records.errors import UserError
from records.notices import RunWarning

TRAIN = torch.arange(60) % 3
NAMES = ("a", "b", "c")


class Toy(FewShotDataModule):
    """60 training and 9 test samples of 3 classes; a feature tells its pool and place."""

    has_own_validation = False

    @property
    def source_name(self) -> str:
        return "toy"

    def load_pools(self) -> Pools:
        labels = {"train": TRAIN, "test": torch.arange(9) % 3}
        if self.has_own_validation:
            labels["val"] = torch.arange(30) % 3
        return Pools(labels, NAMES)

    def pool_features(self, pool: str, positions: torch.Tensor, split: str) -> torch.Tensor:
        return torch.stack([torch.full((len(positions),), float(len(pool))), positions.float()], dim=1)

    def load_text(self) -> torch.Tensor | None:
        return None


class WithValidation(Toy):
    has_own_validation = True


@pytest.mark.parametrize(
    ("choice", "shots", "expected"),
    [("none", 4, 0), ("min(shots,4)", 16, 4), ("min4", 2, 2), ("shots", 16, 16), ("full", 4, None), ("none", None, 0)],
)
def test_validation_shots(choice: Any, shots: int | None, expected: int | None) -> None:
    assert validation_shots(choice, shots) == expected


def test_validation_choices_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="the choices are none, min4"):
        validation_shots("some", 4)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="choose full or none"):
        validation_shots("shots", None)


def test_draws_are_balanced_disjoint_and_nested() -> None:
    pools = Pools({"train": TRAIN, "test": TRAIN}, NAMES)
    support: set[int] = set()
    for shots in (1, 2, 4, 8, 16):
        draw = draw_few_shot(pools, shots, min(shots, 4), seed=7, too_few="error")
        assert torch.bincount(TRAIN[draw.support]).tolist() == [shots] * 3
        assert torch.bincount(TRAIN[draw.validation]).tolist() == [min(shots, 4)] * 3
        assert not set(draw.support.tolist()) & set(draw.validation.tolist())
        assert draw.support.tolist() == sorted(draw.support.tolist())
        assert support < set(draw.support.tolist())
        support = set(draw.support.tolist())


def test_the_draw_follows_its_seed() -> None:
    pools = Pools({"train": TRAIN, "test": TRAIN}, NAMES)
    draws = [tuple(draw_few_shot(pools, 4, 0, seed, "error").support.tolist()) for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_every_sample_of_a_class_is_drawn_equally_often() -> None:
    pools = Pools({"train": TRAIN, "test": TRAIN}, NAMES)
    counts = torch.zeros(60)
    for seed in range(600):
        counts[draw_few_shot(pools, 4, 0, seed, "error").support] += 1
    # 600 draws of 4 in 20: mean 120, standard deviation 9.8
    assert counts.mean() == 120
    assert (counts - 120).abs().max() < 45


def test_full_takes_what_the_shots_leave_and_null_the_whole_pool() -> None:
    pools = Pools({"train": TRAIN, "test": TRAIN}, NAMES)
    full = draw_few_shot(pools, 4, None, 0, "error")
    assert len(full.validation) == 48
    whole = draw_few_shot(pools, None, None, 0, "error")
    assert (len(whole.support), len(whole.validation)) == (60, 0)


def test_a_class_with_too_few_samples_is_an_error_or_a_counted_warning() -> None:
    labels = torch.tensor([0] * 6 + [1] * 2 + [2] * 5)
    pools = Pools({"train": labels, "test": labels}, NAMES)
    with pytest.raises(UserError, match=r"data.shots asks for 4 samples of each class; 1 classes have fewer: b \(2\)"):
        draw_few_shot(pools, 4, 0, 0, "error")
    with pytest.warns(RunWarning, match=r"b \(2\); all they have is taken"):
        draw = draw_few_shot(pools, 4, 0, 0, "warn")
    assert torch.bincount(labels[draw.support]).tolist() == [4, 2, 4]


def test_a_class_without_samples_is_an_error_unless_it_is_unseen() -> None:
    labels = torch.tensor([0] * 6 + [2] * 5)
    with pytest.raises(UserError, match=r"b \(0\)"):
        draw_few_shot(Pools({"train": labels, "test": labels}, NAMES), 4, 0, 0, "warn")
    seen = torch.tensor([True, False, True])
    draw = draw_few_shot(Pools({"train": labels, "test": labels}, NAMES, seen), 4, 0, 0, "error")
    assert torch.bincount(labels[draw.support]).tolist() == [4, 0, 4]


def test_a_validation_pool_of_its_own_is_drawn_from() -> None:
    data = WithValidation(seed=0, shots=4, validation="min4")
    assert data.sizes == {"train": 12, "val": 12, "test": 9}
    assert data.pool_positions("val")[0] == "val"
    assert set(data.validation_features[:, 0].tolist()) == {float(len("val"))}
    data = Toy(seed=0, shots=4, validation="min4")
    assert data.pool_positions("val")[0] == "train"
    assert set(data.validation_features[:, 0].tolist()) == {float(len("train"))}


def test_features_and_labels_stay_together() -> None:
    for data in (Toy(seed=0, shots=2, validation="full"), WithValidation(seed=0, shots=2, validation="full")):
        for split in data.sizes:
            part = data.data.sets[split]
            assert torch.equal(part.features[:, 1].long() % 3, part.labels)


def test_without_validation_there_is_no_such_split() -> None:
    data = Toy(seed=0, shots=4, validation="none")
    assert data.sizes == {"train": 12, "test": 9}
    assert not data.has_validation
    assert data.evaluation_protocol == {"shots": 4, "validation": "none", "validation_samples": 0, "split_seed": 0}


def test_a_split_file_brings_the_draw_back_whatever_the_seed_of_the_run(tmp_path: Path) -> None:
    first = Toy(seed=0, shots=2, split_seed=5, split_dir=tmp_path)
    first.setup()
    assert first.split_path.name == "toy-2shot-val-min4-seed5.json"
    assert read_split_file(first.split_path).sizes == {"train": 6, "validation": 6, "test": 9}
    again = Toy(seed=9, shots=2, split_seed=5, split_file=first.split_path)
    assert again.fingerprint == first.fingerprint
    with pytest.raises(UserError, match="protocol 'toy-2shot-val-min4'"):
        Toy(seed=0, shots=4, split_seed=5, split_file=first.split_path).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "data.shots is 0"),
        ({"too_few": "skip"}, "data.too_few"),
        ({"validation": "x"}, "data.validation"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Toy(seed=0, **settings)
