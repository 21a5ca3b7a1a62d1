"""What a few-shot head is fitted on, checked and brought to unit length; and sums over classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from records.errors import UserError

SHOWN_POSITIONS = 5


@dataclass(frozen=True)
class Labelled:
    """Features (..., N, D) of unit length and their class numbers (..., N)."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Episode:
    """One few-shot problem, or a stack of problems of equal sizes along leading dimensions.

    Every row is of unit length, in float32 or float64.

    Attributes:
        num_classes: C.
        views: (..., N, V, D), V views of each support image; None where there is no support.
        labels: (..., N) int64, classes of the support.
        text: (..., C, D), one embedding per class; None where there is no text.
        unlabelled: (..., M, D), the images to be judged, without labels; None unless they are given.
        validation: labelled images that choose settings; None for no validation.
    """

    num_classes: int
    views: Tensor | None = None
    labels: Tensor | None = None
    text: Tensor | None = None
    unlabelled: Tensor | None = None
    validation: Labelled | None = None

    @property
    def support(self) -> Labelled:
        """One feature per support image: the mean of its views, at unit length."""
        assert self.views is not None
        assert self.labels is not None
        if self.views.shape[-2] == 1:
            return Labelled(self.views.squeeze(-2), self.labels)
        return Labelled(torch.nn.functional.normalize(self.views.mean(dim=-2), dim=-1), self.labels)

    @property
    def support_views(self) -> Labelled:
        """Every view of every support image as a sample of its own: (..., N * V, D)."""
        assert self.views is not None
        assert self.labels is not None
        return Labelled(self.views.flatten(-3, -2), self.labels.repeat_interleave(self.views.shape[-2], dim=-1))

    @property
    def counts(self) -> Tensor:
        """Support images of each class, int64 (..., C)."""
        assert self.labels is not None
        return class_counts(self.labels, self.num_classes)


def make_episode(
    support: Tensor | None,
    labels: Tensor | None,
    text: Tensor | None,
    unlabelled: Tensor | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    num_classes: int | None = None,
) -> Episode:
    """Check the parts of a few-shot problem and bring all features to unit length, in float32 at least.

    Args:
        support: (..., N, D), or (..., N, V, D) with V views of each image; None or N = 0 for none.
        labels: (..., N) class numbers of the support.
        text: (..., C, D), or None.
        unlabelled: (..., M, D), or None.
        validation: features (..., n, D) and labels (..., n), or None; n = 0 is none.
        num_classes: C; None takes the number of text embeddings, else the largest label.

    Raises:
        UserError: widths or lengths differ, a label is out of range, a row is zero or not finite.
    """
    has_support = support is not None and labels is not None and labels.numel() > 0
    has_validation = validation is not None and validation[1].numel() > 0
    if num_classes is None:
        num_classes = _count_classes(labels if has_support else None, text)
    if text is not None and text.shape[-2] != num_classes:
        raise UserError(f"{text.shape[-2]} text embeddings for {num_classes} classes: there must be one for each")
    episode = Episode(
        num_classes=num_classes,
        views=unit_rows(_with_views(support, labels), "support") if has_support else None,
        labels=_class_numbers(labels, num_classes, "support") if has_support else None,
        text=None if text is None else unit_rows(text, "text"),
        unlabelled=None if unlabelled is None else unit_rows(unlabelled, "unlabelled"),
        validation=_labelled(validation, num_classes) if has_validation else None,
    )
    _check_widths(episode)
    return episode


def unit_rows(features: Tensor, name: str) -> Tensor:
    """Return features (..., D) divided by their lengths, in float32 at least.

    Raises:
        UserError: a row is zero or not finite; says how many and where.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    bad = ~(torch.isfinite(lengths) & (lengths > 0)).squeeze(-1)
    if bad.any():
        places = ", ".join(str(tuple(place)) for place in bad.nonzero()[:SHOWN_POSITIONS].tolist())
        raise UserError(
            f"{int(bad.sum())} of {bad.numel()} {name} features are zero or not finite, the first at {places}: "
            "leave these images out, or compute their features again (in half precision they overflow)"
        )
    return features / lengths


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return how often each class comes in labels (..., N): int64 (..., C)."""
    counts = labels.new_zeros(*labels.shape[:-1], num_classes)
    return counts.scatter_add(-1, labels, torch.ones_like(labels))


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the features (..., N, D) of each class (..., N): (..., C, D), zero for an absent class."""
    sums = features.new_zeros(*features.shape[:-2], num_classes, features.shape[-1])
    return sums.scatter_add(-2, labels.unsqueeze(-1).expand_as(features), features)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of each class: (..., C, D), zero for an absent class."""
    counts = class_counts(labels, num_classes).clamp(min=1)
    return class_sums(features, labels, num_classes) / counts.unsqueeze(-1)


def epoch_order(seed: int | Sequence[int], epoch: int, epochs: int, labels: Tensor) -> Tensor:
    """Return the order of an epoch's samples, int64 (..., N) for labels (..., N): a function of seed and epoch alone.

    Args:
        seed: of all problems, or one for each problem of a stack.
        epoch: counted from 0.
        epochs: their number, so that no two seeds share an order.
        labels: of the samples, for their number and the device.

    Raises:
        ValueError: there are not as many seeds as problems.
    """
    *leading, size = labels.shape
    seeds = [seed] if isinstance(seed, int) else list(seed)
    orders = [torch.randperm(size, generator=torch.Generator().manual_seed(one * epochs + epoch)) for one in seeds]
    if isinstance(seed, int):
        return orders[0].to(labels.device).expand(labels.shape)
    if len(seeds) != torch.Size(leading).numel():
        raise ValueError(f"{len(seeds)} seeds for problems {tuple(leading)}: there is one for each")
    return torch.stack(orders).reshape(labels.shape).to(labels.device)


def rows_of(labelled: Labelled, rows: Tensor) -> Labelled:
    """Return the samples at positions (..., n) of their own problem."""
    features = labelled.features.take_along_dim(rows.unsqueeze(-1), dim=-2)
    return Labelled(features, labelled.labels.take_along_dim(rows, dim=-1))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of logits (..., N, C) whose largest is that of their label (..., N): float64 (...)."""
    return (logits.argmax(dim=-1) == labels).double().mean(dim=-1)


def _count_classes(labels: Tensor | None, text: Tensor | None) -> int:
    if text is not None:
        return text.shape[-2]
    if labels is None:
        raise UserError("a few-shot head needs support images or text embeddings; it was given neither")
    return int(labels.max()) + 1


def _with_views(support: Tensor | None, labels: Tensor | None) -> Tensor:
    assert support is not None
    assert labels is not None
    if support.shape[: labels.ndim] != labels.shape or support.ndim - labels.ndim not in (1, 2):
        raise UserError(
            f"support features {tuple(support.shape)} and labels {tuple(labels.shape)} do not go together: features "
            "are (N, D), or (N, V, D) with several views, and labels (N,)"
        )
    return support.unsqueeze(-2) if support.ndim == labels.ndim + 1 else support


def _class_numbers(labels: Tensor | None, num_classes: int, name: str) -> Tensor:
    assert labels is not None
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise UserError(
            f"{name} labels lie between {int(labels.min())} and {int(labels.max())}; with {num_classes} classes they "
            f"are 0 ... {num_classes - 1}"
        )
    return labels


def _labelled(validation: tuple[Tensor, Tensor] | None, num_classes: int) -> Labelled:
    assert validation is not None
    features, labels = validation
    if features.shape[:-1] != labels.shape:
        raise UserError(f"validation features {tuple(features.shape)} do not go with labels {tuple(labels.shape)}")
    return Labelled(unit_rows(features, "validation"), _class_numbers(labels, num_classes, "validation"))


def _check_widths(episode: Episode) -> None:
    parts = {
        "support": episode.views,
        "text": episode.text,
        "unlabelled": episode.unlabelled,
        "validation": None if episode.validation is None else episode.validation.features,
    }
    widths = {name: part.shape[-1] for name, part in parts.items() if part is not None}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(f"features have different widths ({listed}): images and text must come from one encoder")
