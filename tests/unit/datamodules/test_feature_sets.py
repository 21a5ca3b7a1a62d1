from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datamodules.encoded.feature_sets import (
    FeatureData,
    FeatureDataModule,
    FeatureSet,
    FeatureView,
    check_feature_data,
    clean_features,
)
from records.errors import UserError


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def toy_data(**changes: object) -> FeatureData:
    sets = {
        "train": FeatureSet(unit(10, 4), torch.arange(10) % 3),
        "test": FeatureSet(unit(7, 4, seed=1), torch.arange(7) % 3),
    }
    return FeatureData(**{"sets": sets, "class_names": ("a", "b", "c"), **changes})


class Toy(FeatureDataModule):
    given = toy_data()

    def load(self) -> FeatureData:
        return self.given


def test_batches_carry_features_labels_and_indices_and_each_sample_once() -> None:
    data = Toy(seed=3, batch_size=4)
    batches = list(data.train_dataloader())
    index = torch.cat([batch["index"] for batch in batches])
    assert sorted(index.tolist()) == list(range(10))
    assert index.tolist() != list(range(10))
    assert torch.equal(torch.cat([batch["feature"] for batch in batches]), data.support_features[index])
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), data.support_labels[index])
    [loader] = data.test_dataloader()
    assert torch.cat([batch["index"] for batch in loader]).tolist() == list(range(7))
    assert data.val_dataloader() == []


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return Toy(seed=seed).training_order(epoch).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_facts_and_arrays_of_the_contract() -> None:
    data = Toy(seed=0)
    assert data.sizes == {"train": 10, "test": 7}
    assert data.class_counts.tolist() == [4, 3, 3]
    assert (data.num_classes, data.num_features, data.multi_label, data.has_validation) == (3, 4, False, False)
    assert data.text_features is None
    assert data.validation_features is None
    assert data.validation_labels is None
    assert data.seen_classes is None
    assert torch.equal(data.unlabelled_features, Toy.given.sets["test"].features)


def test_the_fingerprint_follows_features_and_labels() -> None:
    class Changed(Toy):
        given = toy_data(sets={**Toy.given.sets, "test": FeatureSet(unit(7, 4, seed=2), torch.arange(7) % 3)})

    assert Toy(seed=0).fingerprint == Toy(seed=5).fingerprint
    assert Toy(seed=0).fingerprint != Changed(seed=0).fingerprint


def test_one_view_is_drawn_per_sample_and_epoch_whatever_the_batch() -> None:
    views = FeatureSet(unit(50, 6, 4), torch.zeros(50, dtype=torch.int64))
    whole = FeatureView(views, seed=1, epoch=2).__getitems__(list(range(50)))["feature"]
    single = torch.stack([FeatureView(views, seed=1, epoch=2)[row]["feature"] for row in range(50)])
    assert torch.equal(whole, single)
    chosen = (whole[:, None] == views.features).all(dim=-1)
    assert chosen.sum(dim=1).tolist() == [1] * 50
    assert len(set(chosen.int().argmax(dim=1).tolist())) == 6
    other = FeatureView(views, seed=1, epoch=3).__getitems__(list(range(50)))["feature"]
    assert not torch.equal(whole, other)


def test_half_precision_becomes_float32_of_unit_length() -> None:
    rows = unit(6, 512).half()
    cleaned = clean_features(rows, "x")
    assert cleaned.dtype == torch.float32
    assert (cleaned.norm(dim=1) - 1).abs().max() < 1e-6
    assert (cleaned - rows.float()).abs().max() < 1e-3


def test_bad_rows_are_counted_and_placed() -> None:
    rows = unit(9, 4)
    rows[[2, 5]] = 0
    with pytest.raises(UserError, match=r"length 0: 2 of 9, at positions 2, 5"):
        clean_features(rows, "x")
    rows[2, 1] = float("inf")
    with pytest.raises(UserError, match=r"no finite numbers .*: 1 of 9, at positions 2\."):
        clean_features(rows, "x")
    with pytest.raises(UserError, match="not of unit length: 9 of 9, at positions 0, 1, 2, 3, 4,"):
        clean_features(2 * unit(9, 4), "x")


def test_lengths_are_scaled_or_kept_on_request() -> None:
    rows = 3 * unit(5, 4)
    assert torch.allclose(clean_features(rows, "x", "scale"), rows / 3)
    assert torch.equal(clean_features(rows, "x", "keep"), rows)
    with pytest.raises(UserError, match=r"data\.unit_length"):
        clean_features(rows, "x", "yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [torch.ones(4), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 0)])
def test_other_shapes_and_types_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(UserError, match="floats of shape"):
        clean_features(wrong, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features": unit(3, 5)}, "text features are 5 wide and the image features 4"),
        ({"text_features": unit(2, 4)}, "2 rows of text features for 3 classes"),
        ({"unlabelled_features": unit(2, 5)}, "unlabelled features are 5 wide"),
        ({"class_names": ("a", "b")}, "outside 0 .. 1"),
        ({"seen_classes": torch.ones(2, dtype=torch.bool)}, "seen_classes has 2 entries"),
        ({"sets": {**Toy.given.sets, "test": FeatureSet(unit(7, 6), torch.zeros(7).long())}}, "different encoders"),
        ({"sets": {**Toy.given.sets, "test": FeatureSet(unit(7, 2, 4), torch.zeros(7).long())}}, "has one: "),
        ({"sets": {**Toy.given.sets, "test": FeatureSet(unit(0, 4), torch.zeros(0).long())}}, "empty"),
        ({"sets": {**Toy.given.sets, "test": FeatureSet(unit(7, 4), torch.zeros(6).long())}}, "7 rows"),
        ({"sets": {**Toy.given.sets, "test": FeatureSet(unit(7, 4), torch.zeros(7))}}, "whole numbers"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_feature_data(toy_data(**changes))
