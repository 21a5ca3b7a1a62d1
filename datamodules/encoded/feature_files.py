"""Files that hold features: npz archives with stated keys, and the folders that Tip-Adapter writes its caches to.

An npz archive (`np.savez`, without pickled objects) holds::

    train_features   (N, D) or (N, V, D)   float16, float32 or float64
    train_labels     (N,)                  whole numbers 0 .. C - 1
    test_features    (M, D)
    test_labels      (M,)
    val_features     (n, D)                left out where there is no validation part
    val_labels       (n,)
    text_features    (C, D)                left out where the classes have no descriptions
    class_names      (C,)                  text; left out: the numbers of the classes
    seen_classes     (C,)                  true or false; left out: no class is held back
    unlabelled_features (m, D)             left out: transductive heads look at the test features

A Tip-Adapter cache is a folder with::

    keys_16shots.pt    (D, N)   one column for each support image, augmented views averaged
    values_16shots.pt  (N, C)   one-hot labels
    test_f.pt, test_l.pt        (M, D) and (M,)
    val_f.pt, val_l.pt          likewise; left out where there is no validation part
    text_weights.pt    (D, C)   left out where the classes have no descriptions (Tip-Adapter itself stores none)

Source of the second layout: gaopengcuhk/Tip-Adapter, utils.py (build_cache_model, pre_load_features).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from records.errors import UserError

NEEDED = ("train_features", "train_labels", "test_features", "test_labels")
OPTIONAL = (
    "val_features",
    "val_labels",
    "text_features",
    "class_names",
    "seen_classes",
    "unlabelled_features",
)
KEYS = (*NEEDED, *OPTIONAL)


@dataclass(frozen=True)
class FeatureFile:
    """What a file of features holds, as it is stored; keys are those of the module's first list.

    Args:
        arrays: tensors by key.
        class_names: name of every class; None where the file has none.
    """

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None


def read_npz(path: Path, keys: Mapping[str, str], needed: tuple[str, ...] = NEEDED) -> FeatureFile:
    """Read an npz archive.

    Args:
        path: the archive.
        keys: our name of an array to the file's own, for those that are called something else there.
        needed: names that must be there.

    Raises:
        UserError: no such file, no npz archive, pickled objects in it, or a needed array is missing.
    """
    _check_keys(keys)
    if not path.is_file():
        raise UserError(f"there is no file of features {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = set(archive.files)
            found = {key: keys.get(key, key) for key in KEYS if keys.get(key, key) in present}
            _check_complete(path, keys, found, present, needed)
            content = {key: archive[name] for key, name in found.items()}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as a plain npz archive ({error}); write it by np.savez with arrays of numbers and "
            "text alone, no Python objects"
        ) from error
    names = content.pop("class_names", None)
    return FeatureFile(
        {key: _tensor(array, key, path) for key, array in content.items()},
        None if names is None else tuple(str(name) for name in names.ravel()),
    )


def _check_keys(keys: Mapping[str, str]) -> None:
    unknown = [key for key in keys if key not in KEYS]
    if unknown:
        raise UserError(f"data.keys.{unknown[0]} is unknown; the choices are {', '.join(KEYS)}")


def _check_complete(
    path: Path, keys: Mapping[str, str], found: Mapping[str, str], present: set[str], needed: tuple[str, ...]
) -> None:
    missing = [f"{keys.get(key, key)} ({key})" for key in (*needed, *keys) if key not in found]
    if missing:
        unlabelled = " Accuracies need the labels of the test part." if "test_labels" not in found else ""
        raise UserError(
            f"{path} lacks {', '.join(dict.fromkeys(missing))}; it holds {', '.join(sorted(present)) or 'nothing'}."
            f"{unlabelled} data.keys={{train_features: NAME, ...}} tells what arrays are called"
        )


def _tensor(array: np.ndarray, key: str, path: Path) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {key} holds {array.dtype}, not numbers")
    if key.endswith("labels"):
        return _labels(
            torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array.astype(np.int64)), path, key
        )
    return torch.from_numpy(array.astype(bool) if key == "seen_classes" else array)


def _labels(labels: Tensor, path: Path, key: str) -> Tensor:
    """Turn labels to int64, where they are whole numbers."""
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        raise UserError(f"{path}: {key} holds fractions; labels are whole numbers")
    return labels.long()


def read_tip_adapter_cache(folder: Path, shots: int) -> FeatureFile:
    """Read the cache that Tip-Adapter wrote for a number of shots; tensors are loaded with weights_only=True.

    Raises:
        UserError: a file is missing or is no tensor, or the cache holds other shots.
    """
    keys, values = folder / f"keys_{shots}shots.pt", folder / f"values_{shots}shots.pt"
    if not keys.is_file():
        there = sorted({int(n) for file in folder.glob("keys_*shots.pt") for n in re.findall(r"\d+", file.stem)})
        held = f"it holds {', '.join(map(str, there))} shots" if there else "it holds no keys_*shots.pt"
        raise UserError(f"{folder} is no Tip-Adapter cache of data.shots={shots}: {held}")
    arrays = {
        "train_features": read_tensor(keys).T.contiguous(),
        "train_labels": _from_one_hot(read_tensor(values), values),
    }
    for split in ("test", "val"):
        files = (folder / f"{split}_f.pt", folder / f"{split}_l.pt")
        if split == "val" and not any(file.is_file() for file in files):
            continue
        arrays[f"{split}_features"] = read_tensor(files[0])
        arrays[f"{split}_labels"] = _labels(read_tensor(files[1]), files[1], "labels")
    text = folder / "text_weights.pt"
    if text.is_file():
        arrays["text_features"] = read_tensor(text).T.contiguous()
    return FeatureFile(arrays)


def _from_one_hot(values: Tensor, path: Path) -> Tensor:
    if values.ndim != 2 or not torch.equal(values.float().sum(dim=1), torch.ones(len(values))):
        raise UserError(f"{path} holds {tuple(values.shape)}; the values of a cache are one-hot rows (N, C)")
    return values.float().argmax(dim=1)


def read_tensor(path: Path) -> Tensor:
    """Read a file that holds one tensor, without running code of the file.

    Raises:
        UserError: it is missing, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be loaded with weights_only=True: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Tensor):
        raise UserError(f"{path} holds {type(content).__name__}, not a tensor")
    return content.detach()
