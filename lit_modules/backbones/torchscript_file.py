"""The tensors of a TorchScript archive, without the program that lies beside them: OpenAI publishes CLIP in this form.

An archive is a zip file: `data.pkl` is the tree of modules as a pickle, `data/N` are the raw numbers of a tensor, and
`code/` holds the program, which nobody opens. The pickle is read by an unpickler that admits what a tree of tensors is
made of and refuses every other name, so nothing of the file is run or imported.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from records.errors import UserError

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
SCRIPTED = "__torch__"
"""The package of all classes that an archive's program defines."""


def is_torchscript(path: Path) -> bool:
    """Say whether a file is a TorchScript archive: a zip file with a program in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def read_torchscript(path: Path, key: str) -> dict[str, Tensor]:
    """Read the tensors of an archive to the CPU, named by the attributes that lead to them, as `state_dict()` does.

    Constants that a module keeps as tensors are among them: only the program says what is a parameter.
    `key` is the setting that names the file, for the errors.

    Raises:
        UserError: the archive is damaged, was written on a machine of the other byte order, or holds objects beyond
            modules, tensors and plain values (quantised weights, for instance), or no tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tree = _ArchiveUnpickler(archive).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, *_WRONG) as error:
        raise UserError(
            f"{key}={path}: a TorchScript archive whose tensors cannot be read without running its program "
            f"({error}). Turn it into weights where you trust it: "
            "safetensors.torch.save_file(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.safetensors')"
        ) from error
    tensors = dict(_tensors_of(tree, ""))
    if not tensors:
        raise UserError(f"{key}={path}: a TorchScript archive without a tensor in it")
    return tensors


_WRONG = (AttributeError, IndexError, KeyError, TypeError, ValueError, UnicodeError)
"""What the unpickler runs into where a pickle is not of the expected form."""


class _ScriptedObject:
    """An object of a class that the program defines: its attributes alone."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _ArchiveUnpickler(pickle.Unpickler):
    """Unpickle `data.pkl`; the few functions that it may call are methods of this object."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        self._archive = archive
        trees = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        self._top = trees[0].removesuffix("data.pkl")
        if f"{self._top}byteorder" in names and archive.read(f"{self._top}byteorder").decode() != sys.byteorder:
            raise ValueError("it was written in the other byte order")
        # a class of this object's own: a pickle can set attributes of a class that it is given
        self._scripted = type("ScriptedObject", (_ScriptedObject,), {})
        super().__init__(io.BytesIO(archive.read(f"{self._top}data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for an admitted name.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        if module == SCRIPTED or module.startswith(f"{SCRIPTED}."):
            return self._scripted
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch.jit._pickle" and name in LISTS:
            return self._plain
        admitted = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.jit._pickle", "restore_type_tag"): self._plain,
            ("collections", "OrderedDict"): dict,
            ("torch", "device"): str,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither module nor tensor")
        return admitted[module, name]

    def persistent_load(self, identity: Any) -> Tensor:
        """Return the raw numbers of a tensor, (n,), from their own entry of the archive."""
        kind, dtype, key, _, size = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {kind!r} of {dtype}, and not to the numbers of a tensor")
        content = bytearray(self._archive.read(f"{self._top}data/{key}"))
        if len(content) != size * dtype.itemsize:
            raise pickle.UnpicklingError(
                f"entry data/{key} has {len(content)} bytes, not {size} times {dtype.itemsize}"
            )
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)

    def _tensor(self, numbers: Tensor, offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
        """Lay a shape over raw numbers; torch refuses one that reaches beyond them."""
        return numbers.as_strided(tuple(shape), tuple(stride), offset)

    def _plain(self, values: Any, *_: Any) -> Any:
        """Return a value without the type that TorchScript notes of it."""
        return values


def _tensors_of(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield prefix, node
    if isinstance(node, _ScriptedObject):
        for name, child in getattr(node, "attributes", {}).items():
            yield from _tensors_of(child, f"{prefix}.{name}" if prefix else str(name))
