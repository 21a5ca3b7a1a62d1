"""Digits with a long-tailed training part: real images without a download."""

from __future__ import annotations

import torch

from datamodules.base import ImageDataModule, LabelledImages
from datamodules.digits import read_digits
from datamodules.long_tail import LongTail
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import order_within_classes, strata

TEST_PER_CLASS = 60


class DigitsRecognition(ImageDataModule):
    """1,797 digits of 8 x 8 grey values in 10 classes: 60 of each class for the test, the rest for training.

    No folder is read. The test images are drawn by `split_seed`; 114 to 123 of each class remain for training.

    Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository,
        1998 (its test part, as packed by scikit-learn). The arguments are those of `ImageDataModule`.
    """

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return f"digits-{TEST_PER_CLASS}-per-class"

    def load(self) -> LabelledImages:
        """Read the digits, whole."""
        return read_digits(self.image_size)

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw the same number of test images of every class."""
        ordered = order_within_classes(strata(labels), self.split_seed, Stream.SPLIT)
        is_test = torch.zeros(len(labels), dtype=torch.bool)
        for members in ordered.values():
            is_test[torch.from_numpy(members[:TEST_PER_CLASS])] = True
        return {"train": (~is_test).nonzero().flatten(), "test": is_test.nonzero().flatten()}


class DigitsLongTail(LongTail, DigitsRecognition):
    """Digits with a long-tailed training part, and 60 test images of every class.

    The arguments are those of `LongTail` and `ImageDataModule`. With `imbalance_ratio=50` the classes have 114, 73, 47,
    30, 20, 12, 8, 5, 3 and 2 training images.
    """
