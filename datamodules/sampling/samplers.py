"""Sampling rules against long tails: which images an epoch draws, a pure function of (seed, epoch).

Sources: Kang et al., "Decoupling representation and classifier for long-tailed recognition", ICLR 2020 (balanced,
square-root); Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019 (effective); Shen, Lin
and Huang, "Relay backpropagation for effective learning of deep convolutional neural networks", ECCV 2016
(class-aware); Cao et al., NeurIPS 2019 (deferred re-sampling).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from datamodules.sampling.order import training_order
from datamodules.sampling.randomness import Stream, random_bits, random_fractions
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Kind = Literal["none", "balanced", "sqrt", "effective", "class_aware"]
Length = Literal["images", "max_class"]
Foreground = Literal["none", "balanced", "sqrt", "effective"]
FOREGROUNDS: tuple[Foreground, ...] = get_args(Foreground)

# epoch / epochs may fall short of the fraction by a rounding
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SamplingRule:
    """How an epoch draws its images.

    Attributes:
        kind: none (every image once), balanced, sqrt, effective (classes drawn at random, images with replacement) or
            class_aware (classes take turns).
        beta: of effective, in [0, 1).
        from_fraction: share of the epochs after which the rule starts, in [0, 1); before it every image comes once.
        samples_per_visit: of class_aware, images drawn whenever a class has its turn.
        length: draws of an epoch: as many as images, or the largest class times the number of classes.

    Raises:
        UserError: a value is out of range.
    """

    kind: Kind = "none"
    beta: float = 0.9999
    from_fraction: float = 0.0
    samples_per_visit: int = 4
    length: Length = "images"

    def __post_init__(self) -> None:
        for key, choices in (("kind", get_args(Kind)), ("length", get_args(Length))):
            if getattr(self, key) not in choices:
                raise UserError(f"rule.sampler.{key} is {getattr(self, key)!r}; the choices are {', '.join(choices)}")
        for key in ("beta", "from_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"rule.sampler.{key} is {getattr(self, key)}; it must lie in [0, 1)")
        if self.samples_per_visit < 1:
            raise UserError(f"rule.sampler.samples_per_visit is {self.samples_per_visit}; it must be at least 1")
        if self.from_fraction and self.length == "max_class":
            raise UserError(
                "rule.sampler.length is max_class and rule.sampler.from_fraction is above 0: epochs would change their "
                "length in mid-run, and the schedule of the learning rate with them; set rule.sampler.length=images"
            )

    @classmethod
    def from_config(cls, settings: Mapping[str, object] | None) -> SamplingRule:
        """Read a mapping such as {kind: balanced, from_fraction: 0.8}; nothing means no rule.

        Raises:
            UserError: a key is unknown or a value is out of range.
        """
        given = dict(settings or {})
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise UserError(f"rule.sampler.{key} is unknown; the choices are {', '.join(known)}")
        return cls(**given)  # type: ignore[arg-type]


def check_epochs(rule: SamplingRule, epochs: int | None) -> None:
    """Refuse a deferred rule where the run has no number of epochs.

    Raises:
        UserError: names both settings.
    """
    if rule.from_fraction and (epochs is None or epochs < 1):
        raise UserError(
            f"rule.sampler.from_fraction is {rule.from_fraction}, a share of the epochs, and their number "
            f"(trainer.max_epochs) is {epochs}; set a number, or rule.sampler.from_fraction=0"
        )


def has_begun(rule: SamplingRule, epoch: int, epochs: int | None) -> bool:
    """Tell whether a rule holds in an epoch, counted from 0: that share of the run's epochs is done."""
    return not rule.from_fraction or epoch / (epochs or 1) >= rule.from_fraction - _ROUNDING


def draw_epoch(
    rule: SamplingRule,
    labels: torch.Tensor,
    seed: int,
    epoch: int,
    epochs: int | None = None,
    draws: int | None = None,
) -> torch.Tensor:
    """Draw the images of one epoch by a rule.

    Args:
        rule: how.
        labels: int64 (N,), the class of each training image.
        seed: the run's seed.
        epoch: 0-based epoch.
        epochs: epochs of the whole run, for a deferred rule.
        draws: how many images a rule of sampling draws; None takes the number that `rule.length` says.

    Returns:
        int64, positions in 0 .. N - 1 in order, with repeats.
    """
    if rule.kind == "none" or not has_begun(rule, epoch, epochs):
        return training_order(len(labels), seed, epoch)
    classes = labels.numpy()
    present, counts = np.unique(classes, return_counts=True)
    draws = draws or (len(labels) if rule.length == "images" else int(counts.max()) * len(present))
    if rule.kind == "class_aware":
        order = class_aware_order(classes, draws, rule.samples_per_visit, seed, epoch)
    else:
        shares = class_shares(counts, rule.kind, rule.beta)
        order = weighted_order(classes, shares, draws, seed, epoch)
    return torch.from_numpy(order)


def class_shares(counts: NDArray[np.int64], kind: Kind, beta: float = 0.9999) -> NDArray[np.float64]:
    """Return the share of an epoch's draws that each class gets, (C,), sum 1.

    balanced: equal; sqrt: in proportion to sqrt(n); effective: to n * (1 - beta) / (1 - beta^n), which is the weight
    of an image times the number of images.

    Args:
        counts: images of each class, at least 1.
        kind: one of the three.
        beta: of effective, in [0, 1).

    Raises:
        ValueError: the kind draws no classes at random.
    """
    size = counts.astype(np.float64)
    weights = {
        "balanced": np.ones_like(size),
        "sqrt": np.sqrt(size),
        "effective": size * (1 - beta) / (1 - beta**size),
    }
    if kind not in weights:
        raise ValueError(f"kind is {kind!r}; the choices are {', '.join(weights)}")
    return weights[kind] / weights[kind].sum()


def weighted_order(
    classes: NDArray[np.int64], shares: NDArray[np.float64], draws: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw a class by its share and one of its images evenly, `draws` times, with replacement.

    Args:
        classes: (N,), the class of each image.
        shares: share of each class that has images, labels ascending, sum 1.
        draws: number of draws.
        seed: the run's seed.
        epoch: 0-based epoch.

    Returns:
        int64 (draws,), positions in 0 .. N - 1.
    """
    by_class = np.argsort(classes, kind="stable")
    _, starts, counts = np.unique(classes[by_class], return_index=True, return_counts=True)
    numbers = np.arange(draws)
    uniform = random_fractions(seed, epoch, Stream.SAMPLED_CLASS, numbers)
    drawn = np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), len(shares) - 1)
    # the upper bound differs from draw to draw; biased by less than n / 2^32
    bits = random_bits(seed, epoch, Stream.SAMPLED_MEMBER, numbers) >> np.uint64(32)
    member = (bits * counts[drawn].astype(np.uint64)) >> np.uint64(32)
    return by_class[starts[drawn] + member.astype(np.int64)]


def class_aware_order(
    classes: NDArray[np.int64], draws: int, samples_per_visit: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Let classes take turns: every round visits all in a new random order, and each visit draws the next images.

    A class hands out its images in random order, and shuffles anew when it is through with them.

    Args:
        classes: (N,), the class of each image.
        draws: number of draws.
        samples_per_visit: images drawn at a visit.
        seed: the run's seed.
        epoch: 0-based epoch.

    Returns:
        int64 (draws,), positions in 0 .. N - 1.
    """
    present = np.unique(classes)
    visits = -(-draws // samples_per_visit)
    visited = _shuffled_rounds(np.arange(len(present)), visits, seed, epoch, Stream.SAMPLED_CLASS)
    order = np.empty((visits, samples_per_visit), dtype=np.int64)
    for place, label in enumerate(present):
        mine = visited == place
        wanted = int(mine.sum()) * samples_per_visit
        drawn = _shuffled_rounds(np.flatnonzero(classes == label), wanted, seed, epoch, Stream.SAMPLED_MEMBER)
        order[mine] = drawn.reshape(-1, samples_per_visit)
    return order.ravel()[:draws]


def _shuffled_rounds(
    members: NDArray[np.int64], wanted: int, seed: int, epoch: int, stream: Stream
) -> NDArray[np.int64]:
    """Repeat `members`, each time in a new random order, and cut after `wanted`."""
    rounds = -(-wanted // len(members))
    # members differ between classes, so (round, member) is a number of its own
    counter = np.arange(rounds)[:, None] * 2**32 + members
    shuffled = members[np.argsort(random_bits(seed, epoch, stream, counter), axis=1, kind="stable")]
    return shuffled.ravel()[:wanted]
