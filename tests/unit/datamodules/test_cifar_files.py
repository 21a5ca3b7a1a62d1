from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchvision

from datamodules.files.cifar_files import (
    CIFAR10,
    CIFAR10_BINARY,
    CIFAR10_PYTHON,
    CIFAR100,
    CIFAR100_BINARY,
    CIFAR100_PYTHON,
    Distribution,
    check_verify,
    ensure_files,
    find_distribution,
    read_cifar,
)
from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    from conftest import TinyCifar

BOTH = [CIFAR10_PYTHON, CIFAR10_BINARY]


def write(tiny: TinyCifar, root: Path, distribution: Distribution) -> None:
    (tiny.write_python if distribution.layout == "python" else tiny.write_binary)(root)


def official(root: Path, distribution: Distribution) -> Distribution:
    folder = root / distribution.folder
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in distribution.md5}
    return replace(distribution, md5=sums)


@pytest.mark.parametrize("distribution", BOTH, ids=lambda d: d.layout)
def test_both_layouts_give_the_same_images(tiny_cifar: TinyCifar, tmp_path: Path, distribution: Distribution) -> None:
    write(tiny_cifar, tmp_path, distribution)
    assert find_distribution(tmp_path, CIFAR10) == distribution
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cifar = read_cifar(tmp_path, official(tmp_path, distribution), "error")
    assert cifar.images.shape == (120, 3, 32, 32)
    assert cifar.images.dtype == torch.uint8
    assert np.array_equal(cifar.images.numpy().reshape(120, 3072), tiny_cifar.pixels)
    assert cifar.labels.tolist() == tiny_cifar.labels.tolist()
    assert cifar.labels.dtype == torch.int64
    assert (len(cifar.class_names), cifar.class_names[0], cifar.class_names[9]) == (10, "airplane", "truck")
    assert cifar.train_count == 100


def test_the_python_folder_reads_as_torchvision_reads_it(
    tiny_cifar: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_cifar.write_python(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *args: True)
    theirs = torchvision.datasets.CIFAR10(str(tmp_path), train=True)
    ours = read_cifar(tmp_path, CIFAR10_PYTHON, "off")
    assert np.array_equal(ours.images[:100].permute(0, 2, 3, 1).numpy(), theirs.data)
    assert ours.labels[:100].tolist() == theirs.targets
    assert list(ours.class_names) == theirs.classes


def test_sums_of_the_python_files_are_those_of_torchvision() -> None:
    for distribution, theirs in (
        (CIFAR10_PYTHON, torchvision.datasets.CIFAR10),
        (CIFAR100_PYTHON, torchvision.datasets.CIFAR100),
    ):
        listed = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
        assert distribution.md5 == listed
        assert distribution.folder == theirs.base_folder


def test_the_binary_files_of_cifar100_hold_a_coarse_label_before_the_fine_one(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR100_BINARY.folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels, fine = rng.integers(0, 256, (12, 3072), dtype=np.uint8), np.arange(12) * 9
    for name, part in (("train.bin", slice(0, 8)), ("test.bin", slice(8, 12))):
        records = [
            bytes([label % 20, label]) + image.tobytes() for label, image in zip(fine[part], pixels[part], strict=True)
        ]
        (folder / name).write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("\n".join(f"name_{number}" for number in range(100)) + "\n")
    assert find_distribution(tmp_path, CIFAR100) == CIFAR100_BINARY
    cifar = read_cifar(tmp_path, official(tmp_path, CIFAR100_BINARY), "error")
    assert cifar.labels.tolist() == fine.tolist()
    assert np.array_equal(cifar.images.numpy().reshape(12, 3072), pixels)
    assert (cifar.train_count, cifar.class_names[99]) == (8, "name_99")
    (folder / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(UserError, match="not a number of records of 3074 bytes"):
        read_cifar(tmp_path, CIFAR100_BINARY, "off")


@pytest.mark.parametrize("distribution", BOTH, ids=lambda d: d.layout)
def test_foreign_files_are_an_error_a_warning_or_nothing(
    tiny_cifar: TinyCifar, tmp_path: Path, distribution: Distribution
) -> None:
    write(tiny_cifar, tmp_path, distribution)
    with pytest.raises(UserError, match=r"not the official ones of CIFAR-10.*data\.verify=warn"):
        read_cifar(tmp_path, distribution)
    with pytest.warns(RunWarning, match=f"{distribution.train_files[0]} has md5 [0-9a-f]{{32}}, not"):
        warned = read_cifar(tmp_path, distribution, "warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = read_cifar(tmp_path, distribution, False)
    assert torch.equal(warned.images, silent.images)


def test_only_the_changed_file_is_named(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_binary(tmp_path)
    distribution = official(tmp_path, CIFAR10_BINARY)
    path = tmp_path / CIFAR10_BINARY.folder / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError) as caught:
        read_cifar(tmp_path, distribution)
    assert "1 of 6 files" in str(caught.value)
    assert "data_batch_3.bin" in str(caught.value)
    assert "data_batch_2.bin" not in str(caught.value)


def test_verify_has_three_choices() -> None:
    assert [check_verify(value) for value in ("error", "warn", "off", False)] == [
        "error",
        "warn",
        "off",
        "off",
    ]
    with pytest.raises(UserError, match=r"data\.verify is 'maybe'; the choices are error, warn, off"):
        check_verify("maybe")


def test_the_python_folder_is_preferred_where_it_is_complete(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_binary(tmp_path)
    tiny_cifar.write_python(tmp_path)
    assert find_distribution(tmp_path, CIFAR10) == CIFAR10_PYTHON
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert find_distribution(tmp_path, CIFAR10) == CIFAR10_BINARY


def test_incomplete_folders_alone_are_refused(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(UserError, match=r"cifar-10-batches-py lacks data_batch_2;"):
        find_distribution(tmp_path, CIFAR10)
    tiny_cifar.write_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_2; .*-bin lacks test_batch.bin;"):
        find_distribution(tmp_path, CIFAR10)


def test_without_files_and_without_download_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ensure_files(tmp_path, CIFAR10, download=False)
    for part in (
        "data.root",
        str(tmp_path),
        "cifar-10-batches-py",
        "cifar-10-batches-bin",
        "data.download=true",
    ):
        assert part in str(caught.value)


def test_a_failing_download_says_what_to_do_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(UserError) as caught:
        ensure_files(tmp_path / "new", CIFAR10, download=True)
    for part in ("no route to host", "data.root", "cifar-10-batches-py", "cifar-10-batches-bin"):
        assert part in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_download_arrives_whole_and_only_when_it_is_needed(
    tiny_cifar: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(root: str, download: bool) -> None:
        calls.append(root)
        tiny_cifar.write_python(Path(root))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    for _ in range(2):
        assert ensure_files(tmp_path, CIFAR10, download=True) == CIFAR10_PYTHON
    assert len(calls) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["cifar-10-batches-py"]


def test_two_processes_may_download_at_once(
    tiny_cifar: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_while_another_finishes(root: str, download: bool) -> None:
        tiny_cifar.write_python(Path(root))
        tiny_cifar.write_python(tmp_path)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch_while_another_finishes)
    assert ensure_files(tmp_path, CIFAR10, download=True) == CIFAR10_PYTHON
    assert [entry.name for entry in tmp_path.iterdir()] == ["cifar-10-batches-py"]


class Harmful:
    """Unpickles into a call of os.mkdir."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_python(tmp_path)
    victim = tmp_path / "victim"
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Harmful(str(victim))}, protocol=2))
    with pytest.raises(UserError, match=r"mkdir is not allowed in a data file"):
        read_cifar(tmp_path, CIFAR10_PYTHON, "off")
    assert not victim.exists()


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_old_and_new_pickles_are_read(tiny_cifar: TinyCifar, tmp_path: Path, protocol: int) -> None:
    tiny_cifar.write_python(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch = {b"data": tiny_cifar.pixels[:20], b"labels": tiny_cifar.labels[:20]}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    assert read_cifar(tmp_path, CIFAR10_PYTHON, "off").labels[:20].tolist() == tiny_cifar.labels[:20].tolist()


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ([1, 2], "holds a list, not a dict"),
        ({"labels": [1]}, "does not hold data"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, "does not hold data"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "does not hold data"),
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]},
            r"holds labels 1 \.\. 10; CIFAR-10 has 0 \.\. 9",
        ),
    ],
)
def test_damaged_python_files_are_refused(tiny_cifar: TinyCifar, tmp_path: Path, batch: Any, match: str) -> None:
    tiny_cifar.write_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match=match):
        read_cifar(tmp_path, CIFAR10_PYTHON, "off")


@pytest.mark.parametrize("content", [b"", b"\x00" * 3072, b"\x0a" + b"\x00" * 3072])
def test_damaged_binary_files_are_refused(tiny_cifar: TinyCifar, tmp_path: Path, content: bytes) -> None:
    tiny_cifar.write_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"test_batch\.bin (has|holds)"):
        read_cifar(tmp_path, CIFAR10_BINARY, "off")


def test_a_list_of_names_of_another_length_is_refused(tiny_cifar: TinyCifar, tmp_path: Path) -> None:
    tiny_cifar.write_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="names 2 classes; CIFAR-10 has 10"):
        read_cifar(tmp_path, CIFAR10_BINARY, "off")


def data_dir_with(folder: str) -> str:
    root = os.environ.get("DATA_DIR", "")
    if not root or not (Path(root) / folder).is_dir():
        pytest.skip(f"DATA_DIR does not name a folder that holds {folder}")
    return root


@pytest.mark.real_data
def test_the_real_cifar100_files_are_read_and_verified() -> None:
    root = data_dir_with(CIFAR100_PYTHON.folder)
    distribution = ensure_files(root, CIFAR100, download=False)
    cifar = read_cifar(root, distribution, "error")
    assert cifar.images.shape == (60000, 3, 32, 32)
    assert torch.bincount(cifar.labels[: cifar.train_count]).tolist() == [500] * 100
    assert torch.bincount(cifar.labels[cifar.train_count :]).tolist() == [100] * 100
    assert cifar.class_names[0] == "apple"
