"""Few-shot problems as the data pose them, and several of equal shape as one stack, in as much memory as is allowed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lit_modules.fewshot.head import FewShotHead, State
from records.notices import RunWarning

TEST_LEAK = (
    "the epoch and the settings were chosen on the TEST labels (task.selection=test_leak): this reproduces published "
    "figures that were made so, and is no estimate of the accuracy on new images"
)
LEAK_NOTE = "yes, the epoch and the settings were chosen on the labels of the test part"
COPIES = 8
"""Matrices of one size that a fit holds at a time: logits, their gradients, bounds of a search."""


@dataclass(frozen=True)
class Problem:
    """What a head is fitted on; see `FewShotHead.fit`. None for what there is not, or what the head has no use for.

    Attributes:
        num_classes: C.
        support: (..., N, D) or (..., N, V, D).
        labels: (..., N).
        text: (..., C, D).
        unlabelled: (..., M, D).
        validation: (..., n, D).
        validation_labels: (..., n).
    """

    num_classes: int
    support: Tensor | None = None
    labels: Tensor | None = None
    text: Tensor | None = None
    unlabelled: Tensor | None = None
    validation: Tensor | None = None
    validation_labels: Tensor | None = None

    @property
    def parts(self) -> dict[str, Tensor | None]:
        """The tensors by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "num_classes"}

    @property
    def shape(self) -> tuple[object, ...]:
        """What problems of one stack have in common: the number of classes, and shape and type of every tensor."""
        parts = [None if part is None else (tuple(part.shape), part.dtype) for part in self.parts.values()]
        return (self.num_classes, *parts)

    @property
    def working_bytes(self) -> int:
        """An upper estimate of the memory that a fit takes beside the problem itself."""
        support, text, unlabelled, validation = (
            _rows(part) for part in (self.support, self.text, self.unlabelled, self.validation)
        )
        width = max((part.shape[-1] for part in self.parts.values() if part is not None), default=1)
        samples = support + unlabelled + validation
        logits = (samples + text) * (self.num_classes + width)
        affinities = (support + unlabelled) * (validation + min(support + unlabelled, width)) + width**2
        return 4 * COPIES * (logits + affinities)

    def fit(self, head: FewShotHead, device: torch.device | str) -> None:
        """Fit a head on a device.

        Raises:
            UserError: see `FewShotHead.fit`.
        """
        moved = {name: None if part is None else part.to(device) for name, part in self.parts.items()}
        features, labels = moved.pop("validation"), moved.pop("validation_labels")
        validation = None if features is None or labels is None else (features, labels)
        head.fit(**moved, validation=validation, num_classes=self.num_classes)


def problem_of(data: Any, head: FewShotHead, num_classes: int) -> Problem:
    """Return what a head takes of data: whole arrays, by the names of `datamodules.encoded.FeatureDataModule`.

    Warns:
        RunWarning: the head asks for the labels of the test part.
    """
    validation, validation_labels = data.validation_features, data.validation_labels
    if getattr(head, "selects_on_test", False):
        warnings.warn(TEST_LEAK, RunWarning, stacklevel=2)
        validation, validation_labels = data.features("test"), data.labels("test")
    return Problem(
        num_classes,
        data.support_features if head.uses_support else None,
        data.support_labels if head.uses_support else None,
        data.text_features,
        data.unlabelled_features if head.transductive else None,
        validation if head.uses_validation else None,
        validation_labels if head.uses_validation else None,
    )


def protocol_of(head: FewShotHead) -> dict[str, str]:
    """Return what a reader of a head's result must know of the head, beside the data's own protocol."""
    return {"test_leak": LEAK_NOTE} if getattr(head, "selects_on_test", False) else {}


def seen_by_fit(is_transductive: bool, data: Any) -> dict[str, str]:
    """Return what a reader must know of the unlabelled images that a fit has looked at; nothing where there were none.

    `transductive` is there where test images were among them; `unlabelled` counts images that are not judged.
    """
    if not is_transductive:
        return {}
    unlabelled, test = data.unlabelled_features, data.features("test")
    if unlabelled is test:
        return {"transductive": "yes, the fit saw the unlabelled test images"}
    rows = {row.tobytes() for row in unlabelled.numpy()}
    seen = sum(row.tobytes() in rows for row in test.numpy())
    if seen == len(test):
        return {"transductive": "yes, the fit saw the unlabelled test images, among others"}
    if seen:
        return {"transductive": f"in part, the fit saw {seen:,} of the {len(test):,} test images unlabelled"}
    return {"unlabelled": f"the fit saw {len(unlabelled):,} unlabelled images, none of the test part"}


def stacked(problems: Sequence[Problem]) -> Problem:
    """Return problems of equal shape as one with a leading dimension; a tensor that all share is not copied."""
    parts = {name: _together([one.parts[name] for one in problems]) for name in problems[0].parts}
    return Problem(problems[0].num_classes, **parts)


def chunks(problems: Sequence[Problem], limit_bytes: float) -> list[list[int]]:
    """Split problems, in their order, into runs that one stack can hold.

    Args:
        problems: any.
        limit_bytes: for the working memory of a stack; one problem alone may take more.

    Returns:
        Positions; those of one list have equal shapes.
    """
    found: list[list[int]] = []
    for place, one in enumerate(problems):
        last = found[-1] if found else []
        fits = (len(last) + 1) * one.working_bytes <= limit_bytes
        if last and fits and problems[last[0]].shape == one.shape:
            last.append(place)
        else:
            found.append([place])
    return found


def plan_stacks(problems: Sequence[Problem], heads: Sequence[str], limit_bytes: float) -> list[dict[int, list[int]]]:
    """Decide which problems are solved together, and which need not be, being the same as an earlier one.

    Args:
        problems: any.
        heads: what head each is for, in words that tell heads apart.
        limit_bytes: see `chunks`.

    Returns:
        For each stack, the position of each problem in it to all positions that its solution serves, its own first.
    """
    served: dict[int, list[int]] = {}
    for place, own in enumerate(same_as(problems, heads)):
        served.setdefault(own, []).append(place)
    distinct = list(served)
    found = chunks([problems[place] for place in distinct], limit_bytes)
    return [{distinct[number]: served[distinct[number]] for number in numbers} for numbers in found]


def solutions(head: FewShotHead, problems: Sequence[Problem], device: torch.device | str) -> list[State]:
    """Fit a head on problems of equal shape, several as one stack, and return the state for each.

    Raises:
        UserError: see `FewShotHead.fit`.
    """
    if len(problems) == 1:
        problems[0].fit(head, device)
        return [head.state]
    stacked(problems).fit(head, device)
    return [head.state_of(place) for place in range(len(problems))]


def same_as(problems: Sequence[Problem], heads: Sequence[str]) -> list[int]:
    """Return for each problem the position of the first one that it repeats, often its own.

    Args:
        problems: any; equal ones consist of the very same tensors.
        heads: what head each is for, in words that tell heads apart.
    """
    first: dict[tuple[object, ...], int] = {}
    marks = [(head, *(id(part) for part in one.parts.values())) for one, head in zip(problems, heads, strict=True)]
    return [first.setdefault(mark, place) for place, mark in enumerate(marks)]


def _rows(part: Tensor | None) -> int:
    return 0 if part is None else part[..., 0].numel()


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if all(part is present[0] for part in present):
        return present[0].expand(len(present), *present[0].shape)
    return torch.stack(present)
