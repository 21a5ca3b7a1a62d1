"""Start a task from the weights of another run, or of a checkpoint that other code has written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from lit_modules.backbones.weights_file import CLASSIFIERS, StateDict, load_state_dict, read_state_dict
from lit_modules.base import TaskModule

Parts = Literal["all", "backbone"]
PARTS: tuple[Parts, ...] = ("all", "backbone")

KEY = "init_from"
OWN_BACKBONE = "backbone."
OWN_CLASSIFIER = "classifier."
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")


@dataclass(frozen=True)
class InitialWeights:
    """What was taken from a file: the number of the backbone's tensors, and of the head's tensors the names.

    `loaded` were taken over; `misfits` are in both with another shape; `missing` the head has and the file lacks;
    `unused` the file has and the head lacks.
    """

    file: Path
    backbone_tensors: int
    loaded: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One sentence for the screen and the record."""
        parts = [f"{self.backbone_tensors} tensors of the backbone"]
        parts += [f"head: {', '.join(self.loaded)}"] if self.loaded else ["a new head"]
        parts += [f"of another shape: {', '.join(self.misfits)}"] if self.misfits else []
        parts += [f"not in the file: {', '.join(self.missing)}"] if self.missing and self.loaded else []
        parts += [f"not used: {', '.join(self.unused)}"] if self.unused else []
        return f"{KEY} {self.file.name}: " + "; ".join(parts)


def start_from(
    task: TaskModule, file: Path, parts: Parts = "all", keys: Mapping[str, str] | None = None
) -> InitialWeights:
    """Load a checkpoint's weights into a task, by name: the backbone whole, of the head whatever fits.

    A checkpoint of ours has our names. A foreign one is taken for a network with a classifier: wrappers (`module.`,
    ...) are stripped, its classifier (`fc.`, `linear.`, `head.`, ...) becomes ours, the rest must be the backbone.

    Args:
        task: the task; its `pretrained` record says afterwards what was loaded.
        file: a .ckpt, .pth or .safetensors file.
        parts: whether the head is loaded too.
        keys: beginnings of names in the file and what they are called here, tried first (`{"feat.": "backbone."}`).

    Returns:
        What was loaded, and what was not.

    Raises:
        UserError: the file cannot be read safely, or is of another architecture.
    """
    state = _renamed(read_state_dict(file, KEY), dict(keys or {}))
    if any(name.startswith(OWN_BACKBONE) for name in state):
        backbone = {name: tensor for name, tensor in state.items() if name.startswith(OWN_BACKBONE)}
        head = {name: tensor for name, tensor in state.items() if not name.startswith(OWN_BACKBONE)}
    else:
        backbone, head = _split_foreign(state, task.backbone.network.state_dict())
    report = load_state_dict(task.backbone.network, backbone, file, key=KEY)
    initial = InitialWeights(file, len(report.matched))
    if parts == "all":
        initial = _load_head(task, head, initial)
    pretrained = task.backbone.pretrained
    task.backbone.pretrained = replace(pretrained, used=True, source=initial.text)
    task.started_from(initial.loaded, initial.unused)
    return initial


def _renamed(state: StateDict, keys: Mapping[str, str]) -> StateDict:
    """Return the state with the first beginning of `keys` that fits a name replaced."""

    def new_name(name: str) -> str:
        beginning = next((old for old in keys if name.startswith(old)), None)
        return name if beginning is None else keys[beginning] + name.removeprefix(beginning)

    return {new_name(name): tensor for name, tensor in state.items()}


def _split_foreign(state: StateDict, own: Collection[str]) -> tuple[StateDict, StateDict]:
    """Return a foreign network's tensors (backbone, head), the classifier's under our name.

    What the backbone itself has (`own`) is its own, however it is called: `classifier.1` of AlexNet, `head.norm`.
    """
    backbone: StateDict = {}
    head: StateDict = {}
    for name, tensor in state.items():
        bare = _unwrapped(name)
        first, _, rest = bare.partition(".")
        if first in CLASSIFIERS and rest and bare not in own:
            head[OWN_CLASSIFIER + rest] = tensor
        else:
            backbone[bare] = tensor
    return backbone, head


def _unwrapped(name: str) -> str:
    wrapper = next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), "")
    return _unwrapped(name.removeprefix(wrapper)) if wrapper else name


def _load_head(task: TaskModule, head: StateDict, initial: InitialWeights) -> InitialWeights:
    """Load what fits of the head, its buffers too, and say what does not; memories of training images stay new."""
    expected: Mapping[str, Tensor] = {
        name: tensor
        for name, tensor in task.state_dict().items()
        if not name.startswith((OWN_BACKBONE, *task.memories))
    }
    common = [name for name in expected if name in head]
    fitting = {name: head[name] for name in common if head[name].shape == expected[name].shape}
    task.load_state_dict(fitting, strict=False)
    return replace(
        initial,
        loaded=tuple(fitting),
        misfits=tuple(name for name in common if name not in fitting),
        missing=tuple(name for name in expected if name not in head),
        unused=tuple(name for name in head if name not in expected),
    )
