"""The interface of the few-shot heads: fit once on a few labelled features, then turn features into logits."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_modules.fewshot.episode import Episode, make_episode, unit_rows
from records.errors import UserError
from records.notices import RunWarning

LOGIT_SCALE = 100.0
"""The factor on cosines that CLIP learnt: its logit scale, clipped at 100 (Radford et al., ICML 2021, section 2.5)."""

State = dict[str, Tensor]


class FewShotHead(nn.Module):
    """A classifier on features of unit length, fitted in one call; free of Lightning.

    A method says how an `Episode` is solved (`solve`) and what its solution makes of features (`scores`), both as
    functions of tensors alone. All tensors may have the same leading dimensions, one problem each: the draws of a sweep
    are solved as one.

    Attributes:
        transductive: the fit looks at the (unlabelled) images that are judged.
        needs_support, needs_text: without these there is nothing to fit.
        uses_text: text, where it is given, has a say: a text encoder then counts as used.
        uses_support, uses_validation: likewise; draws that differ in nothing that is used are one problem.
        needs_every_class: each class must have a support image.
        state: what was fitted, plain tensors; those with one number are settings and scores worth logging. Of a stack
            of problems each has the leading dimensions of the stack, but for numbers that all problems share.
    """

    transductive: ClassVar[bool] = False
    needs_support: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    uses_text: ClassVar[bool] = True
    uses_support: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = True
    needs_every_class: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.state: State = {}

    @abstractmethod
    def solve(self, episode: Episode) -> State:
        """Fit on a checked episode."""

    @abstractmethod
    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return logits (..., N, C) of features (..., N, D) of unit length."""

    def fit(
        self,
        support: Tensor | None,
        labels: Tensor | None,
        text: Tensor | None = None,
        unlabelled: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        num_classes: int | None = None,
    ) -> None:
        """Fit the head; arguments are those of `lit_modules.fewshot.episode.make_episode`.

        Raises:
            UserError: the parts do not go together, or one that this head needs is missing.
        """
        seen = unlabelled if self.transductive else None
        episode = make_episode(support, labels, text, seen, validation, num_classes)
        self._refuse_what_is_missing(episode)
        self.state = self.solve(episode)

    def predict(self, features: Tensor) -> Tensor:
        """Return logits (..., N, C) of features (..., N, D) of any length but zero.

        Raises:
            RuntimeError: the head has not been fitted.
            UserError: a feature is zero or not finite.
        """
        if not self.state:
            raise RuntimeError("predict() before fit(): the head has no state yet")
        state = {name: tensor.to(features.device) for name, tensor in self.state.items()}
        return self.scores(unit_rows(features, "image"), state)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits; the same as `predict`."""
        return self.predict(features)

    def state_of(self, place: int) -> State:
        """Return the state of one problem of a stack with one leading dimension: that of a head fitted to it alone."""
        return {name: tensor[place] if tensor.ndim else tensor for name, tensor in self.state.items()}

    @property
    def facts(self) -> dict[str, float]:
        """The settings and scores of the fit that are one number each."""
        numbers = {name: tensor for name, tensor in self.state.items() if tensor.is_floating_point()}
        return {name: float(tensor) for name, tensor in numbers.items() if tensor.numel() == 1}

    def _refuse_what_is_missing(self, episode: Episode) -> None:
        if self.needs_support and episode.labels is None:
            raise UserError("this task learns from support images and the data give none: set data.shots to 1 or more")
        if self.needs_text and episode.text is None:
            raise UserError(
                "this task needs a text embedding for each class and the data give none: choose data with text, or a "
                "task that learns from images alone (linear_probe, prototype, tip_adapter, gda)"
            )
        if self.transductive and episode.unlabelled is None:
            raise UserError("this task is transductive: it needs the features of all test images at once")
        if self.needs_every_class:
            refuse_empty_classes(episode)


def refuse_empty_classes(episode: Episode) -> None:
    """Make sure that each class has a support image.

    Raises:
        UserError: names the classes without one.
    """
    empty = (episode.counts == 0).nonzero()[:, -1].unique().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise UserError(
            f"{len(empty)} of {episode.num_classes} classes have no support image (class numbers {shown}); this task "
            "needs one of each: choose task=lpp, clap, tip_adapter or another that falls back on text"
        )


def text_logits(features: Tensor, text: Tensor, scale: float) -> Tensor:
    """Return CLIP's own logits: scale * cosine of features (..., N, D) with text (..., C, D), unit rows both."""
    return scale * features @ text.mT


def positive(name: str, value: float) -> float:
    """Return a setting that must be above 0.

    Raises:
        ValueError: it is not.
    """
    if not value > 0:
        raise ValueError(f"task.{name} is {value}; it must be above 0")
    return float(value)


def count(name: str, value: int, least: int = 1) -> int:
    """Return a setting that must be a whole number from `least` on.

    Raises:
        ValueError: it is less.
    """
    if value < least:
        raise ValueError(f"task.{name} is {value}; it must be at least {least}")
    return value


def one_number(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a setting as a float64 tensor with the leading dimensions of `like` (..., N, D)."""
    value = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    return value.expand(like.shape[:-2]).clone()


def warn_of_no_validation(taken: str) -> None:
    """Say that a search was wanted, that there are no images to search on, and what is taken."""
    warnings.warn(f"there are no validation images to choose settings on: {taken} it is", RunWarning, stacklevel=4)
