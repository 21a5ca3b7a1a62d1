from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules.cifar10_retrieval import Cifar10Retrieval, drawn_parts, official_parts
from records.errors import UserError

if TYPE_CHECKING:
    from conftest import TinyCifar

POOL = torch.arange(60_000) % 10


def as_sets(parts: dict[str, torch.Tensor]) -> dict[str, set[int]]:
    sets = {name: set(positions.tolist()) for name, positions in parts.items()}
    assert {name: len(positions) for name, positions in parts.items()} == {name: len(s) for name, s in sets.items()}
    return sets


@pytest.mark.parametrize(("protocol", "database_size"), [(1, 59_000), (54000, 54_000)])
def test_drawn_protocols_have_their_sizes_and_rules(protocol: int, database_size: int) -> None:
    parts = drawn_parts(POOL, 0, database_holds_train=protocol == 1)
    sets = as_sets(parts)
    assert {name: len(members) for name, members in sets.items()} == {
        "train": 5_000,
        "query": 1_000,
        "database": database_size,
    }
    assert torch.bincount(POOL[parts["query"]]).tolist() == [100] * 10
    assert torch.bincount(POOL[parts["train"]]).tolist() == [500] * 10
    assert not sets["query"] & sets["database"]
    assert not sets["query"] & sets["train"]
    if protocol == 1:
        assert sets["train"] <= sets["database"]
    else:
        assert not sets["train"] & sets["database"]


def test_both_drawn_protocols_share_queries_and_training_images_of_a_seed() -> None:
    one, other = drawn_parts(POOL, 3, True), drawn_parts(POOL, 3, False)
    assert torch.equal(one["query"], other["query"])
    assert torch.equal(one["train"], other["train"])
    assert not torch.equal(one["query"], drawn_parts(POOL, 4, True)["query"])


def test_protocol_2_is_the_official_split() -> None:
    parts = official_parts(60_000, 50_000)
    assert parts["query"].tolist() == list(range(50_000, 60_000))
    assert parts["database"].tolist() == parts["train"].tolist() == list(range(50_000))


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_tiny_files_go_through_the_whole_data_module(
    tiny_cifar: TinyCifar, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.cifar10_retrieval.QUERIES_PER_CLASS", 2)
    monkeypatch.setattr("datamodules.cifar10_retrieval.TRAINING_PER_CLASS", 5)
    getattr(tiny_cifar, f"write_{layout}")(tmp_path)
    settings: dict[str, Any] = {
        "root": tmp_path,
        "verify": "off",
        "download": False,
        "image_size": 32,
        "seed": 0,
        "batch_size": 10,
        "val_fraction": 0.2,
    }
    expected = {1: (50, 20, 100), 2: (100, 20, 100), 54000: (50, 20, 50)}
    for protocol, (train, query, database) in expected.items():
        data = Cifar10Retrieval(protocol=protocol, **settings)
        assert data.sizes == {
            "train": train * 4 // 5,
            "val_query": train // 5,
            "val_database": train * 4 // 5,
            "query": query,
            "database": database,
        }
        batch = next(iter(data.train_dataloader()))
        positions = data.positions("train")[batch["index"]]
        pixels = torch.from_numpy(tiny_cifar.pixels).view(-1, 3, 32, 32)
        assert torch.equal(batch["image"], pixels[positions])
        assert batch["label"].tolist() == tiny_cifar.labels[positions].tolist()


def test_both_layouts_have_one_fingerprint(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_python(tmp_path / "a")
    tiny_cifar.write_binary(tmp_path / "b")
    prints = {
        Cifar10Retrieval(root=tmp_path / name, protocol=2, verify="off", image_size=32, seed=0).fingerprint
        for name in "ab"
    }
    assert len(prints) == 1


def test_wrong_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.protocol is 3; the choices are 1, 2, 54000"):
        Cifar10Retrieval(root=tmp_path, protocol=3, image_size=32, seed=0)
    with pytest.raises(UserError, match=r"data\.verify"):
        Cifar10Retrieval(root=tmp_path, verify="never", image_size=32, seed=0)


def test_missing_files_are_an_error_before_anything_is_read(tmp_path: Path) -> None:
    data = Cifar10Retrieval(root=tmp_path, download=False, image_size=32, seed=0)
    for action in (data.prepare_data, data.setup, lambda: data.sizes):
        with pytest.raises(UserError, match=r"data\.root"):
            action()


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::records.notices.RunWarning")
@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [(1, (5_000, 1_000, 59_000)), (2, (50_000, 10_000, 50_000)), (54000, (5_000, 1_000, 54_000))],
)
def test_real_files_give_the_published_sizes(protocol: int, sizes: tuple[int, int, int], tmp_path: Path) -> None:
    root = Path(os.environ.get("DATA_DIR", ""))
    if not any((root / folder).is_dir() for folder in ("cifar-10-batches-py", "cifar-10-batches-bin")):
        pytest.skip("DATA_DIR does not name a folder that holds cifar-10-batches-py or cifar-10-batches-bin")
    settings: dict[str, Any] = {
        "root": root,
        "protocol": protocol,
        "verify": "warn",
        "image_size": 32,
        "seed": 0,
    }
    data = Cifar10Retrieval(split_dir=tmp_path, **settings)
    assert tuple(data.sizes.values()) == sizes
    assert data.class_counts.tolist() == [sizes[0] // 10] * 10
    again = Cifar10Retrieval(split_file=data.split_path, **settings)
    assert again.fingerprint == data.fingerprint


def test_protocol_2_is_drawn_by_no_seed(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_python(tmp_path)
    settings: dict[str, Any] = {"root": tmp_path, "protocol": 2, "verify": "off", "image_size": 32, "seed": 0}
    data = Cifar10Retrieval(split_seed=1, split_dir=tmp_path, **settings)
    assert data.splits.seed is None
    assert data.split_path == tmp_path / "cifar10-protocol-2.json"
    again = Cifar10Retrieval(split_seed=2, split_file=data.split_path, **settings)
    assert again.fingerprint == data.fingerprint


def test_a_part_held_out_of_protocol_2_is_drawn_by_its_seed(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_python(tmp_path)
    settings: dict[str, Any] = {
        "root": tmp_path,
        "protocol": 2,
        "verify": "off",
        "image_size": 32,
        "seed": 0,
        "val_fraction": 0.2,
    }
    data = Cifar10Retrieval(split_seed=1, split_dir=tmp_path, **settings)
    assert data.splits.seed == 1
    with pytest.raises(UserError, match=r"data\.split_seed=1, the settings say 2"):
        Cifar10Retrieval(split_seed=2, split_file=data.split_path, **settings).setup()
