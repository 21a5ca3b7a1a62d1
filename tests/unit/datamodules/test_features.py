from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.features import Features
from records.errors import UserError

RNG = np.random.default_rng(0)


def unit(*shape: int) -> np.ndarray:
    rows = RNG.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float16)


def arrays(**changes: Any) -> dict[str, Any]:
    content = {
        "train_features": unit(24, 8),
        "train_labels": np.arange(24, dtype=np.int16) % 3,
        "test_features": unit(9, 8),
        "test_labels": np.arange(9) % 3,
        "text_features": unit(3, 8),
        "class_names": np.array(["cat", "Käfer", "dog"]),
    }
    return {name: array for name, array in {**content, **changes}.items() if array is not None}


def saved(folder: Path, **changes: Any) -> Path:
    file = folder / "toy.npz"
    np.savez(file, **arrays(**changes))
    return file


def read(file: Path, **settings: Any) -> Features:
    data = Features(**{"file": file, "seed": 0, "shots": 4, "validation": "min4", **settings})
    data.setup()
    return data


def test_an_npz_archive_becomes_float32_splits(tmp_path: Path) -> None:
    data = read(saved(tmp_path))
    assert data.sizes == {"train": 12, "val": 12, "test": 9}
    assert data.class_names == ("cat", "Käfer", "dog")
    assert data.support_features.dtype == torch.float32
    assert data.support_labels.dtype == torch.int64
    assert data.text_features is not None
    assert data.text_features.shape == (3, 8)
    stored = np.load(tmp_path / "toy.npz")["test_features"].astype(np.float32)
    assert np.abs(data.data.sets["test"].features.numpy() - stored).max() < 1e-3


def test_arrays_may_be_called_something_else_and_text_lie_elsewhere(tmp_path: Path) -> None:
    text = unit(3, 8)
    np.savez(tmp_path / "text.npz", prompts=text, class_names=np.array(["x", "y", "z"]))
    file = saved(tmp_path, train_features=None, pool=unit(24, 8), text_features=None, class_names=None)
    keys = {"train_features": "pool", "text_features": "prompts", "test_labels": None}
    data = read(file, keys=keys, text_file=tmp_path / "text.npz")
    assert data.class_names == ("x", "y", "z")
    assert np.abs(data.text_features.numpy() - text.astype(np.float32)).max() < 1e-3
    torch.save(torch.from_numpy(text.T.copy()), tmp_path / "text.pt")
    other = read(file, keys={"train_features": "pool"}, text_file=tmp_path / "text.pt")
    assert torch.equal(other.text_features, data.text_features)
    assert other.class_names == ("0", "1", "2")


def test_views_are_kept_for_training_and_averaged_for_validation(tmp_path: Path) -> None:
    data = read(saved(tmp_path, train_features=unit(24, 5, 8)))
    assert data.support_features.shape == (12, 5, 8)
    assert data.validation_features.shape == (12, 8)
    assert (data.validation_features.norm(dim=1) - 1).abs().max() < 1e-6


def test_seen_classes_and_unlabelled_features_are_handed_on(tmp_path: Path) -> None:
    labels = np.arange(24) % 2
    data = read(
        saved(tmp_path, train_labels=labels, seen_classes=np.array([1, 1, 0]), unlabelled_features=unit(5, 8)),
    )
    assert data.seen_classes.tolist() == [True, True, False]
    assert data.unlabelled_features.shape == (5, 8)
    assert data.class_counts.tolist() == [4, 4, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, r"lacks test_labels .* Accuracies need the labels"),
        ({"text_features": unit(3, 6)}, "text features are 6 wide and the image features 8"),
        ({"train_labels": np.arange(24) / 2}, "fractions"),
        ({"train_labels": np.array(["a"] * 24)}, "not numbers"),
        ({"train_features": np.zeros((24, 8))}, "train_features has rows of length 0: 24 of 24"),
        ({"train_features": np.full((24, 8), np.inf)}, "no finite numbers"),
        ({"train_features": np.ones((24, 8))}, r"data\.unit_length=scale"),
        ({"class_names": np.array(["a", "b"])}, "text features for 2 classes|outside 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(saved(tmp_path, **changes))


def test_no_file_no_archive_no_pickles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.file is null"):
        Features(file=None, seed=0)
    with pytest.raises(UserError, match="there is no file of features"):
        read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="plain npz archive"):
        read(tmp_path / "text.npz")
    np.savez(tmp_path / "pickled.npz", **arrays(class_names=np.array([{}, {}, {}], dtype=object)))
    with pytest.raises(UserError, match="no Python objects"):
        read(tmp_path / "pickled.npz")
    with pytest.raises(UserError, match=r"data\.keys\.images is unknown"):
        read(saved(tmp_path), keys={"images": "x"})


def write_cache(folder: Path, shots: int = 4, with_validation: bool = True) -> dict[str, torch.Tensor]:
    keys = torch.from_numpy(unit(3 * shots, 8))
    labels = torch.arange(3 * shots) % 3
    torch.save(keys.T, folder / f"keys_{shots}shots.pt")
    torch.save(torch.nn.functional.one_hot(labels).half(), folder / f"values_{shots}shots.pt")
    for split in ("test", "val") if with_validation else ("test",):
        torch.save(torch.from_numpy(unit(9, 8)), folder / f"{split}_f.pt")
        torch.save(torch.arange(9) % 3, folder / f"{split}_l.pt")
    return {"keys": keys, "labels": labels}


def test_a_tip_adapter_cache_is_the_support_set(tmp_path: Path) -> None:
    stored = write_cache(tmp_path)
    torch.save(torch.from_numpy(unit(3, 8)).T.contiguous(), tmp_path / "text_weights.pt")
    data = read(tmp_path, layout="tip_adapter", validation="full")
    assert data.sizes == {"train": 12, "val": 9, "test": 9}
    assert torch.equal(data.support_labels, stored["labels"])
    assert (data.support_features - stored["keys"].float()).abs().max() < 1e-3
    assert data.text_features.shape == (3, 8)


def test_what_is_wrong_with_a_cache_is_said(tmp_path: Path) -> None:
    write_cache(tmp_path, with_validation=False)
    with pytest.raises(UserError, match=r"data\.shots=16: it holds 4 shots"):
        read(tmp_path, layout="tip_adapter", shots=16)
    with pytest.raises(UserError, match=r"data\.validation=none"):
        read(tmp_path, layout="tip_adapter")
    read(tmp_path, layout="tip_adapter", validation="none")
    (tmp_path / "test_f.pt").write_bytes(pickle.dumps(Path("/"), protocol=2))
    with pytest.raises(UserError, match="weights_only=True"):
        read(tmp_path, layout="tip_adapter", validation="none")
    torch.save(torch.ones(12, 3), tmp_path / "values_4shots.pt")
    with pytest.raises(UserError, match="one-hot"):
        read(tmp_path, layout="tip_adapter", validation="none")
