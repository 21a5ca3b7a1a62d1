"""Long-tailed parts of balanced data: how many images each class keeps, and which.

Source: the construction of Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
NeurIPS 2019 (github.com/kaidic/LDAM-DRW, imbalance_cifar.py), which the field's codes share: numbers truncated and not
rounded, and numpy's legacy generator, seeded once, shuffling one class after the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from datamodules.foreground import ForegroundDraws
from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from datamodules.sampling.splits import Splits

ImbalanceType = Literal["exp", "step", "none"]
TestOrder = Literal["forward", "backward"]


def imbalance_factor(ratio: object, key: str = "imbalance_ratio") -> float:
    """Return smallest class / largest class, in (0, 1], of a ratio given either way round: 100 and 0.01 are the same.

    Raises:
        UserError: the ratio is no number, or not positive and finite.
    """
    # bool is an int, and `imbalance_ratio=true` a slip of the keyboard
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise UserError(
            f"data.{key} is {ratio!r}; it is a number: largest class / smallest class (100), or the inverse (0.01)"
        )
    if not (ratio > 0 and math.isfinite(ratio)):
        raise UserError(
            f"data.{key} is {ratio}; it must be positive: largest class / smallest class, 1 or more (100), or its "
            "inverse, below 1 (0.01)"
        )
    # 1 / 100 is the same double as 0.01, so both ways give the same numbers of images
    return ratio if ratio < 1 else 1 / ratio


def long_tailed_counts(largest: float, num_classes: int, factor: float, kind: ImbalanceType = "exp") -> list[int]:
    """Return the number of images of each class, the largest first.

    `exp`: int(largest * factor^(k / (C - 1))) for k = 0 .. C - 1; `step`: the first C // 2 classes keep all, the
    others int(largest * factor); `none`: all keep all. Where C is odd, `step` gives the middle class to the tail.

    Args:
        largest: images of the largest class.
        num_classes: C, at least 1.
        factor: smallest / largest, in (0, 1].
        kind: one of the three.

    Raises:
        UserError: there is no such kind.
    """
    if kind == "exp":
        return [int(largest * factor ** (rank / max(num_classes - 1, 1))) for rank in range(num_classes)]
    if kind == "step":
        heads = num_classes // 2
        return [int(largest)] * heads + [int(largest * factor)] * (num_classes - heads)
    if kind == "none":
        return [int(largest)] * num_classes
    raise UserError(f"data.imbalance_type is {kind!r}; the choices are {', '.join(get_args(ImbalanceType))}")


def order_of_classes(num_classes: int, seed: int | None = None) -> list[int]:
    """Return the classes by falling number of images: in label order, or shuffled by a seed."""
    if seed is None:
        return list(range(num_classes))
    return np.random.RandomState(seed).permutation(num_classes).tolist()


def counts_by_label(counts: Sequence[int], classes: Sequence[int]) -> list[int]:
    """Turn numbers of images by rank, and the class at each rank, into numbers by label."""
    by_label = [0] * len(counts)
    for count, label in zip(counts, classes, strict=True):
        by_label[label] = count
    return by_label


def check_counts(counts: Sequence[int], available: Sequence[int], part: str, key: str) -> None:
    """Refuse numbers of images that a class does not have, or that leave a class without any.

    Args:
        counts: wanted images of each class, by label.
        available: images there are.
        part: "train" or "test", for the message.
        key: the setting to change, for the message.

    Raises:
        UserError: names the classes and the mend.
    """
    if len(counts) != len(available):
        raise UserError(f"there are counts for {len(counts)} classes, and the {part} part has {len(available)}")
    empty = [label for label, count in enumerate(counts) if count < 1]
    if empty:
        raise UserError(
            f"data.{key} leaves {len(empty)} of {len(counts)} classes without an image in the {part} part (the first "
            f"is class {empty[0]}); take a ratio below {max(counts)}"
        )
    short = [label for label, count in enumerate(counts) if count > available[label]]
    if short:
        raise UserError(
            f"class {short[0]} has {available[short[0]]} images in the {part} part, and {counts[short[0]]} are wanted; "
            "set data.max_per_class to what the smallest class has, or null"
        )


def select_images(labels: NDArray[np.int64], counts: Sequence[int], seed: int = 0) -> NDArray[np.int64]:
    """Select the images that each class keeps, bit-identical to the field's construction.

    Args:
        labels: (N,) in 0 .. C - 1.
        counts: images that each class keeps, by label.
        seed: of numpy's legacy generator; the field takes 0.

    Returns:
        places in `labels`, int64 (sum of counts,), one class after the other, each in shuffled order.
    """
    generator = np.random.RandomState(seed)
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        generator.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen).astype(np.int64)


class LongTail(ForegroundDraws):
    """Makes any single-label data long-tailed: stands before the data's own class among the bases.

    `class MyLongTail(LongTail, MyData)` keeps what `MyData` reads and draws, and thins out its part "train" (and, where
    asked for, its part "test") class by class. A validation part is held out of the thinned training part, stratified;
    a class with a single image keeps it for training.

    Args:
        imbalance_ratio: largest class / smallest class, as 100 or as 0.01.
        imbalance_type: exp (each class a constant factor smaller than the one before), step (the first half of the
            classes whole, the others small) or none.
        max_per_class: images of the largest class; None takes as many as the smallest class of the data has.
        selection_seed: of the images that are kept; the field takes 0.
        class_order_seed: shuffles which classes are large; None keeps the order of the labels, as the field does.
        test_imbalance_ratio: of an imbalanced test part, always exp; 1 keeps the test part as it is.
        test_order: forward, the classes that are large in training are large in the test too; or backward.
        settings: those of the data.

    Raises:
        UserError: a value is out of range, or leaves a class without an image.
    """

    def __init__(
        self,
        *,
        imbalance_ratio: float = 100,
        imbalance_type: ImbalanceType = "exp",
        max_per_class: int | None = None,
        selection_seed: int = 0,
        class_order_seed: int | None = None,
        test_imbalance_ratio: float = 1,
        test_order: TestOrder = "forward",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.factor = imbalance_factor(imbalance_ratio)
        self.test_factor = imbalance_factor(test_imbalance_ratio, "test_imbalance_ratio")
        for key, value, choices in (
            ("imbalance_type", imbalance_type, get_args(ImbalanceType)),
            ("test_order", test_order, get_args(TestOrder)),
        ):
            if value not in choices:
                raise UserError(f"data.{key} is {value!r}; the choices are {', '.join(choices)}")
        if max_per_class is not None and max_per_class < 1:
            raise UserError(f"data.max_per_class is {max_per_class}; it must be at least 1, or null")
        self.imbalance_type: ImbalanceType = imbalance_type
        self.max_per_class = max_per_class
        self.selection_seed = selection_seed
        self.class_order_seed = class_order_seed
        self.test_order: TestOrder = test_order

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        # the data's own class, which comes after this one, has it
        words = [super().protocol_name, self.imbalance_type, f"{1 / self.factor:g}"]  # type: ignore[safe-super]
        if self.max_per_class is not None:
            words.append(f"max{self.max_per_class}")
        if self.selection_seed:
            words.append(f"selection{self.selection_seed}")
        if self.class_order_seed is not None:
            words.append(f"order{self.class_order_seed}")
        if self.test_factor < 1:
            words.append(f"test-{self.test_order}-{1 / self.test_factor:g}")
        return "-".join(words)

    def _make_splits(self, labels: torch.Tensor) -> Splits:
        splits = super()._make_splits(labels)
        trained_on = np.bincount(labels[splits.parts["train"]].numpy(), minlength=int(labels.max()) + 1)
        empty = np.flatnonzero(trained_on == 0).tolist()
        if empty:
            raise UserError(
                f"{len(empty)} of {len(trained_on)} classes have no training image, the first is class {empty[0]}: "
                "data.fold holds out their only ones, or data.split_file lacks them. Take a smaller "
                "data.imbalance_ratio, or data.val_fraction in place of a fold, which leaves every class one image"
            )
        return splits

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw the data's own parts, and thin out "train" and "test"."""
        parts = super().draw_parts(labels)  # type: ignore[safe-super]
        if labels.ndim > 1:
            raise UserError(
                "the images of these data have several classes each; only single-label data are thinned out"
            )
        num_classes = int(labels.max()) + 1
        classes = order_of_classes(num_classes, self.class_order_seed)
        parts["train"] = self._thinned(
            parts["train"], labels, classes, self.factor, self.imbalance_type, "train", self.max_per_class
        )
        if self.test_factor < 1:
            ordered = classes if self.test_order == "forward" else classes[::-1]
            parts["test"] = self._thinned(parts["test"], labels, ordered, self.test_factor, "exp", "test")
        return parts

    def _thinned(
        self,
        positions: torch.Tensor,
        labels: torch.Tensor,
        classes: Sequence[int],
        factor: float,
        kind: ImbalanceType,
        part: str,
        largest: int | None = None,
    ) -> torch.Tensor:
        of_part = labels[positions].numpy()
        available = np.bincount(of_part, minlength=len(classes)).tolist()
        counts = long_tailed_counts(largest or min(available), len(classes), factor, kind)
        by_label = counts_by_label(counts, classes)
        key = "imbalance_ratio" if part == "train" else "test_imbalance_ratio"
        check_counts(by_label, available, part, key)
        return positions[torch.from_numpy(select_images(of_part, by_label, self.selection_seed))]
