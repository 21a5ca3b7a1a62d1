from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch

from datamodules.encoded.feature_bank import BankKey, FeatureBank, fill_bank, fingerprint_of, open_bank
from records.errors import UserError

KEY = BankKey("images", "encoder", "centre", 2, "list")
ITEMS = torch.randn(25, 2, 3, generator=torch.Generator().manual_seed(0))


def bank_of(folder: Path, key: BankKey = KEY, count: int = 25) -> FeatureBank:
    return FeatureBank(folder, key, count, shard_size=10)


class Counting:
    """Encode in batches of 4 and remember which items were asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def __call__(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        self.asked.append((start, stop))
        for first in range(start, stop, 4):
            if self.stop_at is not None and first >= self.stop_at:
                raise KeyboardInterrupt
            yield ITEMS[first : min(first + 4, stop)]


def test_features_are_computed_once_and_come_back_in_order(tmp_path: Path) -> None:
    encode, told = Counting(), []
    features = fill_bank(bank_of(tmp_path), encode, report=lambda done, total: told.append((done, total)))
    assert torch.equal(features, ITEMS)
    assert encode.asked == [(0, 10), (10, 20), (20, 25)]
    assert told[-1] == (25, 25)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    again = Counting()
    assert torch.equal(fill_bank(bank_of(tmp_path), again), ITEMS)
    assert again.asked == []


def test_an_interrupted_bank_goes_on_with_the_first_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_bank(bank_of(tmp_path), Counting(stop_at=14))
    assert bank_of(tmp_path).missing() == [1, 2]
    encode = Counting()
    assert torch.equal(fill_bank(bank_of(tmp_path), encode), ITEMS)
    assert encode.asked == [(10, 20), (20, 25)]


def test_ranks_share_the_shards_and_wait_for_each_other(tmp_path: Path) -> None:
    encoders, results = [Counting(), Counting()], {}

    def work(rank: int) -> None:
        results[rank] = fill_bank(bank_of(tmp_path), encoders[rank], rank, 2)

    threads = [Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [encoder.asked for encoder in encoders] == [[(0, 10), (20, 25)], [(10, 20)]]
    assert torch.equal(results[0], ITEMS)
    assert torch.equal(results[1], ITEMS)


def test_waiting_ends_where_no_other_process_works(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks 1 shards"):
        fill_bank(bank_of(tmp_path), Counting(), 0, 2, patience_s=0.1)


@pytest.mark.parametrize("field", ["encoder", "transform", "data", "kind"])
def test_a_bank_of_another_key_is_refused_with_the_difference(tmp_path: Path, field: str) -> None:
    fill_bank(bank_of(tmp_path), Counting())
    with pytest.raises(UserError, match=rf"differs in {field} \({getattr(KEY, field)} there, other now\)"):
        bank_of(tmp_path, replace(KEY, **{field: "other"}))


def test_a_bank_of_another_size_is_refused(tmp_path: Path) -> None:
    fill_bank(bank_of(tmp_path), Counting())
    with pytest.raises(UserError, match=r"differs in count \(25 there, 26 now\)"):
        bank_of(tmp_path, count=26)


def test_a_foreign_or_damaged_shard_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    fill_bank(bank_of(tmp_path / "a"), Counting())
    fill_bank(bank_of(tmp_path / "b", replace(KEY, encoder="other")), Counting())
    shard = bank_of(tmp_path / "a").path(1)
    shard.write_bytes(bank_of(tmp_path / "b", replace(KEY, encoder="other")).path(1).read_bytes())
    bank_of(tmp_path / "a").path(2).unlink()
    encode = Counting()
    with pytest.raises(UserError, match="belongs to another feature bank"):
        fill_bank(bank_of(tmp_path / "a"), encode)
    shard.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        fill_bank(bank_of(tmp_path / "a"), encode)
    assert encode.asked == []


def test_folders_are_named_by_the_key_and_descriptions_are_plain(tmp_path: Path) -> None:
    keys = [KEY, replace(KEY, views=1), replace(KEY, data="x")]
    folders = {open_bank(tmp_path, "toy", key, 5).folder for key in keys}
    assert len(folders) == 3
    assert not any(tmp_path.iterdir()), "a bank that is looked at is not begun"
    bank = open_bank(tmp_path, "toy", KEY, 5)
    bank.begin()
    description = json.loads((bank.folder / "bank.json").read_text())
    assert (description["transform"], description["views"], description["count"]) == ("centre", 2, 5)


def test_a_shard_of_another_shape_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes \(5, 2, D\)"):
        bank_of(tmp_path).write(2, torch.zeros(10, 2, 3))


def test_fingerprints_tell_lists_apart() -> None:
    lists = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""]]
    assert len({fingerprint_of(items) for items in lists}) == 4


@pytest.mark.parametrize(("rank", "share"), [(0, 15), (1, 10)])
def test_each_process_tells_of_its_own_share_and_comes_to_its_end(tmp_path: Path, rank: int, share: int) -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(UserError, match="lacks"):
        fill_bank(bank_of(tmp_path), Counting(), rank, 2, lambda *done: told.append(done), patience_s=0.01)
    assert {total for _, total in told} == {share}
    assert told[-1] == (share, share)
    # the other one goes on, and of its own nothing is there yet
    told.clear()
    fill_bank(bank_of(tmp_path), Counting(), 1 - rank, 2, lambda *done: told.append(done))
    assert told[0] == (4, 25 - share)


def test_features_are_read_from_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_bank(bank_of(tmp_path), Counting())
    read: list[int] = []
    read_shard = FeatureBank._read_shard
    monkeypatch.setattr(FeatureBank, "_read_shard", lambda bank, shard: read.append(shard) or read_shard(bank, shard))
    assert torch.equal(fill_bank(bank_of(tmp_path), Counting()), ITEMS)
    assert read == [0, 1, 2]
