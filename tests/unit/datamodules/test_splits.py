from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampling.order import training_order
from datamodules.sampling.randomness import Stream, random_bits
from datamodules.sampling.splits import (
    Splits,
    check_split_file,
    hold_out_fold,
    hold_out_validation,
    label_fingerprint,
    per_class_parts,
    read_split_file,
    strata,
    stratified_counts,
    stratified_folds,
    stratified_hold_out,
    write_split_file,
)
from records.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

LABELS = torch.tensor([0] * 50 + [1] * 20 + [2] * 7 + [3])[
    torch.randperm(78, generator=torch.Generator().manual_seed(0))
]


@pytest.fixture
def splits() -> Splits:
    parts = {
        "train": torch.tensor([5, 1, 9]),
        "query": torch.tensor([0]),
        "database": torch.tensor([1, 5, 9, 2]),
    }
    return Splits("toy", 3, 0.0, label_fingerprint(LABELS), parts)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0.02, 0.9),
    seed=st.integers(0, 99),
)
def test_a_hold_out_is_stratified_complete_and_leaves_no_class_empty(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    wanted = round(fraction * len(labels))
    if wanted == 0 or sum(count - 1 for count in counts) == 0:
        with pytest.raises(UserError, match=r"data\.val_fraction"):
            stratified_hold_out(labels, fraction, seed)
        return
    kept, held = stratified_hold_out(labels, fraction, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    for label, count in enumerate(counts):
        taken = int((labels[held] == label).sum())
        assert taken < count or count == 0
        assert taken >= min(int(fraction * count), count - 1)
    if all(count * fraction <= count - 1 for count in counts):
        assert len(held) == wanted


def test_counts_are_shared_by_largest_remainders() -> None:
    assert stratified_counts(np.array([50, 20, 7, 1]), 0.1).tolist() == [5, 2, 1, 0]
    assert stratified_counts(np.array([3, 3, 3]), 0.5).tolist() == [2, 1, 1]
    assert stratified_counts(np.array([5, 5, 1]), 0.99).tolist() == [4, 4, 0]


def test_a_hold_out_takes_the_smallest_keys_of_every_class() -> None:
    _, held = stratified_hold_out(LABELS, 0.1, 4)
    expected = []
    for label, count in enumerate([5, 2, 1, 0]):
        members = [position for position in range(len(LABELS)) if LABELS[position] == label]
        members.sort(key=lambda position: random_bits(4, 0, Stream.HOLD_OUT, [position])[0])
        expected += members[:count]
    assert held.tolist() == sorted(expected)


def test_seeds_draw_differently_and_repeat_themselves() -> None:
    draws = [tuple(stratified_hold_out(LABELS, 0.3, seed)[1].tolist()) for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_multi_label_images_are_grouped_by_their_rarest_class() -> None:
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.float32)
    assert strata(labels).tolist() == [1, 0, 2, 2, 3, 1]  # counts 4, 3, 2


def test_parts_per_class_have_their_counts_and_do_not_overlap() -> None:
    labels = torch.arange(90) % 3
    parts, rest = per_class_parts(labels, [("query", 4), ("train", 10)], 0)
    assert torch.bincount(labels[parts["query"]]).tolist() == [4] * 3
    assert torch.bincount(labels[parts["train"]]).tolist() == [10] * 3
    together = torch.cat([parts["query"], parts["train"], rest])
    assert sorted(together.tolist()) == list(range(90))
    with pytest.raises(UserError, match="class 0 has 30 images; the protocol draws 31"):
        per_class_parts(labels, [("query", 31)], 0)


def test_validation_comes_out_of_train_alone() -> None:
    labels = torch.arange(60) % 3
    pool = torch.arange(10, 40)
    before = Splits("toy", 0, 0.0, "x", {"train": pool, "query": torch.arange(10), "database": pool})
    after = hold_out_validation(before, labels, 0.2, 0)
    assert after.sizes == {"train": 24, "query": 10, "database": 30, "validation": 6}
    assert sorted(torch.cat([after.parts["train"], after.parts["validation"]]).tolist()) == pool.tolist()
    assert after.val_fraction == 0.2
    assert torch.equal(after.parts["database"], pool)


def test_a_split_file_is_read_back_as_written(splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "splits.json"
    write_split_file(path, splits)
    loaded = read_split_file(path)
    assert loaded.fingerprint == splits.fingerprint
    assert (loaded.protocol, loaded.seed, loaded.val_fraction) == ("toy", 3, 0.0)
    assert {name: part.tolist() for name, part in loaded.parts.items()} == {
        name: part.tolist() for name, part in splits.parts.items()
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["splits.json"]


@pytest.mark.parametrize("change", ["position", "seed", "order", "checksum"])
def test_a_changed_split_file_is_refused(splits: Splits, tmp_path: Path, change: str) -> None:
    path = tmp_path / "splits.json"
    write_split_file(path, splits)
    content = json.loads(path.read_text())
    if change == "position":
        content["parts"]["train"][0] = 6
    elif change == "seed":
        content["seed"] = 4
    elif change == "order":
        content["parts"]["train"].reverse()
    else:
        content["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"checksum.*data\.split_file=null"):
        read_split_file(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "no valid JSON"), ("[1]", "not a split file"), ('{"format": "x"}', "not a split file")],
)
def test_what_is_no_split_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        read_split_file(path)


def test_other_versions_and_missing_files_are_refused(splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    with pytest.raises(UserError, match=r"data\.split_file=.*cannot be read"):
        read_split_file(path)
    write_split_file(path, splits)
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(UserError, match="version 9; this release reads 1"):
        read_split_file(path)


def test_a_file_that_does_not_fit_is_refused_with_all_differences(splits: Splits) -> None:
    wanted = Splits("other", 5, 0.1, "0" * 64, {})
    with pytest.raises(UserError) as caught:
        check_split_file(splits, "a.json", wanted, ("train", "validation"), 9)
    message = str(caught.value)
    for part in (
        "other data",
        "'toy'",
        "'other'",
        "split_seed=3",
        "val_fraction=0.0",
        "lacks the part(s) validation",
        "its part(s) train, database name positions outside 0 .. 8",
    ):
        assert part in message
    check_split_file(splits, "a.json", splits, splits.parts, 10)


def test_a_file_without_a_seed_fits_any_seed(splits: Splits) -> None:
    foreign = Splits(splits.protocol, None, 0.0, splits.data_fingerprint, splits.parts)
    check_split_file(foreign, "a.json", splits, ("train", "query", "database"), 10)


def test_fingerprints_tell_lists_and_labels_apart(splits: Splits) -> None:
    moved = {**splits.parts, "train": torch.tensor([1, 5, 9])}
    assert Splits("toy", 3, 0.0, splits.data_fingerprint, moved).fingerprint != splits.fingerprint
    assert Splits("toy", 3, 0.0, "0", splits.parts).fingerprint != splits.fingerprint
    assert label_fingerprint(LABELS) != label_fingerprint(LABELS.flip(0))
    assert label_fingerprint(torch.zeros(4, 3)) != label_fingerprint(torch.zeros(3, 4))


def test_draws_stay_the_same_from_release_to_release() -> None:
    parts, _ = per_class_parts(torch.arange(30) % 3, [("query", 2)], 0)
    assert parts["query"].tolist() == [3, 7, 8, 15, 20, 28]
    assert training_order(10, 0, 0).tolist() == [8, 7, 4, 6, 9, 1, 3, 5, 0, 2]
    assert training_order(10, 1, 2).tolist() == [6, 7, 4, 5, 1, 9, 8, 2, 3, 0]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    folds=st.integers(2, 7),
    seed=st.integers(0, 99),
)
def test_folds_are_a_stratified_partition(counts: list[int], folds: int, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    if len(labels) < folds:
        with pytest.raises(UserError, match=r"data\.folds"):
            stratified_folds(labels, folds, seed)
        return
    parts = stratified_folds(labels, folds, seed)
    assert sorted(position for part in parts for position in part.tolist()) == list(range(len(labels)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for label in range(len(counts)):
        shares = [int((labels[part] == label).sum()) for part in parts]
        assert max(shares) - min(shares) <= 1


def test_a_fold_comes_out_of_train_alone_and_is_written_and_read(tmp_path: Path) -> None:
    labels = torch.arange(60) % 3
    pool = torch.arange(10, 40)
    before = Splits("toy", 0, 0.0, "x", {"train": pool, "query": torch.arange(10), "database": pool})
    held = []
    for fold in range(4):
        after = hold_out_fold(before, labels, fold, 4, 0)
        assert sorted(torch.cat([after.parts["train"], after.parts["validation"]]).tolist()) == pool.tolist()
        assert torch.equal(after.parts["database"], pool)
        held += after.parts["validation"].tolist()
        write_split_file(tmp_path / "fold.json", after)
        assert read_split_file(tmp_path / "fold.json").fold == (fold, 4)
    assert sorted(held) == pool.tolist()
    with pytest.raises(UserError, match=r"data\.fold=3 of data\.folds=4, the settings ask for no fold"):
        check_split_file(after, "fold.json", before, ["train"], 60)
