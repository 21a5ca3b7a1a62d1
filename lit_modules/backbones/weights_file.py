"""Weights of a local file: read without running its code, matched by name, reported key by key."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lit_modules.backbones.pretrained import PretrainedRecord, Requested
from lit_modules.backbones.torchscript_file import is_torchscript, read_torchscript
from records.checkpoint_checksum import verify_checkpoint
from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    from pathlib import Path

StateDict = dict[str, Tensor]
# The setting that names a weight file, in errors.
KEY = "model.weights_file"
# Where training programs put the weights inside a checkpoint; averaged weights, if any, are the published ones.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "module")
# First components of the names that classifiers have; a backbone has none, so their loss is expected.
CLASSIFIERS = frozenset({"linear", "fc", "head", "head_dist", "classifier", "classif"})


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors loaded, of those of the network the file lacks, of those of the file not used."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    prefix: str

    @property
    def text(self) -> str:
        """One sentence for the record."""
        parts = [f"{len(self.matched)} tensors loaded"]
        if self.prefix:
            parts.append(f"prefix '{self.prefix}' stripped")
        if self.missing:
            parts.append(f"{len(self.missing)} missing: {_shortened(self.missing)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} not used: {_shortened(self.unexpected)}")
        return "; ".join(parts)


def read_state_dict(path: Path, key: str = KEY) -> StateDict:
    """Read the tensors of a .safetensors file, a PyTorch checkpoint or a TorchScript archive to the CPU.

    Nested containers are opened; no program of a file is run. `key` is the setting that names the file, for the errors.

    Raises:
        UserError: no such file; a checkpoint of ours that does not fit the checksum it carries;
            Python objects beyond tensors; no tensors by name.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path, device="cpu")
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{key}={path}: not a readable safetensors file: {error}") from error
    if is_torchscript(path):
        return read_torchscript(path, key)
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{key}={path}: torch.load(weights_only=True) refuses it: the file is damaged, or holds "
            "Python objects beside tensors and would run code. In the environment it came from, save only the "
            "weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'). "
            f"({str(error).splitlines()[0]})"
        ) from error
    return _open_containers(content, path, key)


def load_state_dict(
    network: nn.Module,
    state: StateDict,
    path: Path,
    convert: Callable[[StateDict, nn.Module], Mapping[str, Tensor]] | None = None,
    key: str = KEY,
) -> LoadReport:
    """Load what fits by name into `network` and report the rest.

    A wrapper's prefix (`module.`, `_orig_mod.`, `backbone.network.`, ...) is the one under which most names
    fit; it is stripped, and names outside it are not used. `convert` then maps foreign names and resizes
    position tables. Missing names, and unused ones that are no classifier, are said in a `RunWarning`.

    Raises:
        UserError: no name fits, or a tensor has another shape than the network's.
    """
    expected = network.state_dict()
    prefix = _best_prefix(state, expected)
    outside = [name for name in state if not name.startswith(prefix)]
    inside: Mapping[str, Tensor] = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if convert is not None:
        inside = convert(dict(inside), network)
    matched = tuple(name for name in expected if name in inside)
    _refuse_misfits(matched, inside, expected, path, key)
    # Checkpoints older than PyTorch 0.4.1 lack these counters, and nothing but a momentum of None reads them.
    missing = tuple(n for n in expected if n not in inside and not n.endswith("num_batches_tracked"))
    unused = tuple(name for name in inside if name not in expected)
    network.load_state_dict({name: inside[name] for name in matched}, strict=False)
    report = LoadReport(matched, missing, unused + tuple(outside), prefix)
    if missing or any(name.split(".")[0] not in CLASSIFIERS for name in unused):
        warnings.warn(
            f"{key}={path}: the file and the network differ: {report.text}",
            RunWarning,
            stacklevel=2,
        )
    return report


def _open_containers(content: Any, path: Path, key: str) -> StateDict:
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((k for k in CONTAINERS if isinstance(content.get(k), Mapping)), None)
        if inner is None and tensors:
            return tensors
        if inner is None:
            break
        content = content[inner]
    keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise UserError(
        f"{key}={path}: no tensors by name in it; found {keys}, looked for tensors at the top or "
        f"below one of {', '.join(CONTAINERS)}"
    )


def _best_prefix(state: StateDict, expected: Mapping[str, Tensor]) -> str:
    votes: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                votes["".join(f"{part}." for part in parts[:start])] += 1
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")


def _refuse_misfits(
    matched: tuple[str, ...], state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, key: str
) -> None:
    if not matched:
        raise UserError(
            f"{key}={path}: no tensor of the file fits the network by name. The file has "
            f"{_shortened(tuple(state))}; the network has {_shortened(tuple(expected))}. Is model.architecture right?"
        )
    misfits = [
        f"{name} {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
        for name in matched
        if state[name].shape != expected[name].shape
    ]
    if misfits:
        raise UserError(
            f"{key}={path}: tensors of another shape than the network's: "
            f"{_shortened(tuple(misfits))}. Are model.architecture, its options and model.image_size those of the file?"
        )


def _shortened(names: tuple[str, ...], at_most: int = 6) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def start_from_file(
    network: nn.Module,
    path: Path,
    requested: Requested,
    convert: Callable[[StateDict, nn.Module], Mapping[str, Tensor]] | None = None,
) -> PretrainedRecord:
    """Load a local file in place of the published weights; return the record of it.

    Raises:
        UserError: the file cannot be read, or does not fit the network.
    """
    report = load_state_dict(network, read_state_dict(path), path, convert)
    return PretrainedRecord(requested, True, f"weights_file {path.name}: {report.text}")
