"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from datamodules.base import LabelledImages, RetrievalDataModule
from datamodules.images.source import ImageArray
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import stratified_hold_out

TEST_FRACTION = 0.2


class Digits(RetrievalDataModule):
    """1,797 digits of 8 x 8 grey values in 10 classes; a stratified fifth of them queries the rest.

    No folder is read. Sizes with `val_fraction=0.1`::

        train         1,294
        val_query       144    held out of the training part
        val_database  1,294    = train
        query           359    the test part, a stratified fifth by `split_seed`
        database      1,438    the rest, held-out images included

    Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository,
        1998 (its test part, as packed by scikit-learn).

    The arguments are those of `ImageDataModule`; `split_seed` draws the queries and the held-out share.
    """

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return "digits-stratified-fifth"

    def load(self) -> LabelledImages:
        """Read the digits, whole."""
        return read_digits(self.image_size)

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw a stratified fifth as queries, the rest as database and training part."""
        rest, query = stratified_hold_out(labels, TEST_FRACTION, self.split_seed, Stream.SPLIT)
        return {"train": rest, "query": query, "database": rest}


def read_digits(image_size: int | None) -> LabelledImages:
    """Read the digits; grey values 0 .. 16 become 0 .. 255 in three equal channels.

    Args:
        image_size: side of the images handed out; None keeps the 8 pixels.
    """
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return LabelledImages(ImageArray(images, labels, image_size), tuple(str(name) for name in digits.target_names))
