"""The files of CIFAR-10 and CIFAR-100 as their authors distribute them.

Folders that are understood, below a root of the user's choice::

    cifar-10-batches-py/     data_batch_1 .. data_batch_5, test_batch, batches.meta
    cifar-10-batches-bin/    data_batch_1.bin .. data_batch_5.bin, test_batch.bin, batches.meta.txt
    cifar-100-python/        train, test, meta
    cifar-100-binary/        train.bin, test.bin, fine_label_names.txt (coarse_label_names.txt is not needed)

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and the data sets' page,
https://www.cs.toronto.edu/~kriz/cifar.html. The sums of the python files are torchvision's; the page gives
sums of archives only, those of the single binary files are the ones that several independent loaders check.
The files of CIFAR-100's binary distribution hold the records of the python files, coarse label first.
Lists of class names in the binary distributions have no known sum and are not checked.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from records.errors import UserError
from records.file_lock import in_turn
from records.notices import RunWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Verify = Literal["error", "warn", "off"]
_IMAGE_BYTES = 3 * 32 * 32
_CONNECTION_TIMEOUT = 30.0


@dataclass(frozen=True)
class Distribution:
    """One way in which a data set is distributed.

    Args:
        dataset: its name, for messages.
        folder: the folder below the root.
        layout: how the files are written.
        train_files: files of the official training part, in order.
        test_files: files of the official test part, in order.
        names_file: file with the class names.
        md5: sum of every file whose sum is known.
        label_key: key of the labels (python layout).
        names_key: key of the class names (python layout).
        num_classes: labels lie in 0 .. num_classes - 1.
        label_bytes: bytes before the pixels of a record, of which the last is the label (binary layout).
    """

    dataset: str
    folder: str
    layout: Literal["python", "binary"]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    names_file: str
    md5: Mapping[str, str]
    num_classes: int
    label_key: str = "labels"
    names_key: str = "label_names"
    label_bytes: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        """All files, images first."""
        return (*self.train_files, *self.test_files, self.names_file)


CIFAR10_PYTHON = Distribution(
    dataset="CIFAR-10",
    folder="cifar-10-batches-py",
    layout="python",
    train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_files=("test_batch",),
    names_file="batches.meta",
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    num_classes=10,
)

CIFAR10_BINARY = Distribution(
    dataset="CIFAR-10",
    folder="cifar-10-batches-bin",
    layout="binary",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    names_file="batches.meta.txt",
    md5={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    num_classes=10,
)

CIFAR100_PYTHON = Distribution(
    dataset="CIFAR-100",
    folder="cifar-100-python",
    layout="python",
    train_files=("train",),
    test_files=("test",),
    names_file="meta",
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    num_classes=100,
    label_key="fine_labels",
    names_key="fine_label_names",
)

CIFAR100_BINARY = Distribution(
    dataset="CIFAR-100",
    folder="cifar-100-binary",
    layout="binary",
    train_files=("train.bin",),
    test_files=("test.bin",),
    names_file="fine_label_names.txt",
    md5={
        "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
        "test.bin": "4499cfba6c016c1be1438163640a0898",
    },
    num_classes=100,
    label_bytes=2,
)

CIFAR10 = (CIFAR10_PYTHON, CIFAR10_BINARY)
CIFAR100 = (CIFAR100_PYTHON, CIFAR100_BINARY)


@dataclass(frozen=True)
class CifarImages:
    """A whole data set: the official training part, then the official test part.

    Args:
        images: uint8 (N, 3, 32, 32), RGB.
        labels: int64 (N,).
        class_names: C names.
        train_count: images of the official training part.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    train_count: int


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not allowed in a data file")
    return text.encode(encoding)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and numpy arrays, and nothing that could run code.

    Raises:
        pickle.UnpicklingError: the file asks for anything else.
    """

    _ALLOWED = frozenset(
        {("multiarray", "_reconstruct"), ("numeric", "_frombuffer"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> Any:
        """Allow the few callables an array is rebuilt with."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        # Old files name the module as numpy 1 did, which numpy 2 answers with a deprecation warning.
        for prefix in ("numpy.core.", "numpy._core."):
            short = module.removeprefix(prefix)
            if short != module and (short, name) in self._ALLOWED:
                return super().find_class(f"numpy._core.{short}", name)
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


def find_distribution(root: str | Path, choices: Sequence[Distribution]) -> Distribution | None:
    """Find the first distribution that lies whole below `root`; None if there is no folder of any.

    Raises:
        UserError: there are folders, and all of them lack files.
    """
    present = [choice for choice in choices if (Path(root) / choice.folder).is_dir()]
    incomplete = []
    for choice in present:
        folder = Path(root) / choice.folder
        missing = [name for name in choice.files if not (folder / name).is_file()]
        if not missing:
            return choice
        incomplete.append(f"{folder} lacks {', '.join(missing)}")
    if incomplete:
        raise UserError(
            f"{'; '.join(incomplete)}; complete the folder, or remove it and run again with data.download=true"
        )
    return None


def ensure_files(root: str | Path, choices: Sequence[Distribution], download: bool) -> Distribution:
    """Find the distribution below `root`, or have torchvision download it where `download` allows that.

    Raises:
        UserError: nothing is there and the download is not allowed or fails.
    """
    found = find_distribution(root, choices)
    if found is not None:
        return found
    wanted = " or ".join(choice.folder for choice in choices)
    name = choices[0].dataset
    if not download:
        raise UserError(
            f"{name} is not below data.root={root} (looked for the folder {wanted}) and data.download is false; "
            "set data.root=FOLDER to where it lies, or data.download=true to fetch it"
        )
    try:
        # every rank and every job of a sweep comes here: the first one fetches, the others find what it has fetched
        with in_turn(Path(root) / ".download.lock"):
            found = find_distribution(root, choices)
            if found is None:
                _download(Path(root), choices[0])
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} is not below data.root={root} (looked for the folder {wanted}) and could not be downloaded "
            f"({error}); put one of these folders there, set data.root=FOLDER to where it lies, or try again with "
            "network"
        ) from error
    return found or choices[0]


def _download(root: Path, distribution: Distribution) -> None:
    from torchvision import datasets

    fetch = {"CIFAR-10": datasets.CIFAR10, "CIFAR-100": datasets.CIFAR100}[distribution.dataset]
    root.mkdir(parents=True, exist_ok=True)
    # Unpacked beside and renamed: an interrupted download leaves no half folder, and two processes do not collide.
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as aside, _connection_timeout():
        fetch(aside, download=True)
        try:
            (Path(aside) / distribution.folder).rename(root / distribution.folder)
        except OSError:
            if find_distribution(root, [distribution]) is None:
                raise


@contextmanager
def _connection_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECTION_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_cifar(root: str | Path, distribution: Distribution, verify: Verify | Literal[False] = "error") -> CifarImages:
    """Read a whole data set.

    Args:
        root: the folder that holds the distribution's own.
        distribution: what lies there.
        verify: what a file with another md5 than the official one means: an error, a warning, or (off)
            nothing at all. YAML reads a bare `off` as False, which is taken as "off".

    Raises:
        UserError: a file does not fit its sum (`verify="error"`), or cannot be understood.

    Warns:
        RunWarning: a file does not fit its sum (`verify="warn"`).
    """
    mode = check_verify(verify)
    folder = Path(root) / distribution.folder
    contents = {name: (folder / name).read_bytes() for name in distribution.files}
    if mode != "off":
        _verify(folder, contents, distribution, mode)
    parse = _parse_python if distribution.layout == "python" else _parse_binary
    images, labels = [], []
    for name in (*distribution.train_files, *distribution.test_files):
        pixels, classes = parse(contents.pop(name), folder / name, distribution)
        _check_labels(classes, folder / name, distribution)
        images.append(pixels)
        labels.append(classes)
    train_count = sum(len(part) for part in labels[: len(distribution.train_files)])
    return CifarImages(
        images=torch.from_numpy(np.concatenate(images).reshape(-1, 3, 32, 32)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        class_names=_class_names(contents[distribution.names_file], folder / distribution.names_file, distribution),
        train_count=train_count,
    )


def check_verify(verify: object) -> Verify:
    """Name the choice that `data.verify` makes.

    Raises:
        UserError: it is none of the choices.
    """
    modes: dict[object, Verify] = {"error": "error", "warn": "warn", "off": "off", False: "off"}
    if verify not in modes:
        raise UserError(f"data.verify is {verify!r}; the choices are error, warn, off")
    return modes[verify]


def _verify(folder: Path, contents: Mapping[str, bytes], distribution: Distribution, mode: Verify) -> None:
    sums = {name: hashlib.md5(contents[name], usedforsecurity=False).hexdigest() for name in distribution.md5}
    wrong = [name for name, expected in distribution.md5.items() if sums[name] != expected]
    if not wrong:
        return
    found = "; ".join(f"{name} has md5 {sums[name]}, not {distribution.md5[name]}" for name in wrong)
    message = (
        f"{len(wrong)} of {len(sums)} files in {folder} are not the official ones of {distribution.dataset}: {found}"
    )
    if mode == "error":
        raise UserError(
            f"{message}. Put the official files there (or remove the folder and set data.download=true), "
            "or take these as they are with data.verify=warn"
        )
    warnings.warn(message, RunWarning, stacklevel=3)


def _parse_binary(
    content: bytes, path: Path, distribution: Distribution
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    record_bytes = distribution.label_bytes + _IMAGE_BYTES
    if not content or len(content) % record_bytes:
        raise UserError(f"{path} has {len(content)} bytes, which is not a number of records of {record_bytes} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record_bytes)
    return records[:, distribution.label_bytes :], records[:, distribution.label_bytes - 1]


def _parse_python(
    content: bytes, path: Path, distribution: Distribution
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _unpickle(content, path)
    pixels = batch.get("data")
    labels = np.asarray(batch.get(distribution.label_key))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_IMAGE_BYTES,):
        pixels = None
    if pixels is None or labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"{path} does not hold data (N, {_IMAGE_BYTES}) uint8 with N {distribution.label_key}; "
            f"it is not a file of {distribution.dataset}"
        )
    return pixels, labels


def _unpickle(content: bytes, path: Path) -> dict[str, Any]:
    try:
        loaded = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise UserError(f"{path} cannot be read as a data file: {error}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} cannot be read as a data file: it holds a {type(loaded).__name__}, not a dict")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in loaded.items()}


def _check_labels(labels: NDArray[Any], path: Path, distribution: Distribution) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < distribution.num_classes):
        raise UserError(
            f"{path} holds labels {labels.min()} .. {labels.max()}; "
            f"{distribution.dataset} has 0 .. {distribution.num_classes - 1}"
        )


def _class_names(content: bytes, path: Path, distribution: Distribution) -> tuple[str, ...]:
    if distribution.layout == "binary":
        names = content.decode("ascii", errors="replace").split()
    else:
        listed = _unpickle(content, path).get(distribution.names_key, [])
        names = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in listed]
    if len(names) != distribution.num_classes:
        raise UserError(f"{path} names {len(names)} classes; {distribution.dataset} has {distribution.num_classes}")
    return tuple(names)
