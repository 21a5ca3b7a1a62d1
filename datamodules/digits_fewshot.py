"""The embedded few-shot example: handwritten digits, and drawn digits that stand in for text."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules.digits import TEST_FRACTION
from datamodules.encoded.digit_strokes import HANDS, draw_digit
from datamodules.encoded.few_shot import FewShotDataModule, Pools
from datamodules.encoded.gradient_histograms import gradient_histograms
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import stratified_hold_out


class DigitsFewShot(FewShotDataModule):
    """1,797 digits of 8 x 8 grey values as features 128 wide, without a download and without weights.

    What stands for what:

    - the image encoder is a histogram of oriented gradients (`gradient_histograms`), fixed and without weights;
    - the text encoder does not exist: a class description is the digit drawn with a pen, from a table of strokes
      written for this project (`digit_strokes`), and encoded as an image. Twelve hands (pens, slants, widths) are
      averaged as the sentences of a template ensemble are. No handwritten image and no label has part in it.

    So zero-shot recognition compares handwriting with drawn digits, and few-shot methods have the same to gain as with
    CLIP: descriptions that are right but lie off the images' means. It says nothing about language.

    Sizes: 359 test samples, a stratified fifth by `split_seed`; support and validation are drawn from the rest.

    Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository,
        1998 (its test part, as packed by scikit-learn).

    The arguments are those of `FewShotDataModule`.
    """

    pools_are_drawn: ClassVar[bool] = True

    @property
    def source_name(self) -> str:
        """Name of the data."""
        return "digits"

    def load_pools(self) -> Pools:
        """Read the digits; a stratified fifth is the test part."""
        digits = load_digits()
        self._grey = digits.images / 16
        labels = torch.from_numpy(digits.target.astype(np.int64))
        rest, test = stratified_hold_out(labels, TEST_FRACTION, self.split_seed, Stream.SPLIT)
        self._rows = {"train": rest, "test": test}
        names = tuple(str(name) for name in digits.target_names)
        return Pools({pool: labels[rows] for pool, rows in self._rows.items()}, names)

    def pool_features(self, pool: str, positions: Tensor, split: str) -> Tensor:
        """Features of a pool at positions int64 (n,): float32 (n, 128)."""
        return torch.from_numpy(gradient_histograms(self._grey[self._rows[pool][positions].numpy()]))

    def pool_rows(self, pool: str) -> Tensor:
        """Where the samples of a pool lie among all digits, int64 (N,)."""
        assert self.pools
        return self._rows[pool]

    def load_text(self) -> Tensor:
        """Describe the classes: the mean of a drawn digit's features over all hands, of unit length, (10, 128)."""
        drawn = np.stack([draw_digit(digit, hand) for digit in range(10) for hand in HANDS])
        encoded = torch.from_numpy(gradient_histograms(drawn)).reshape(10, len(HANDS), -1)
        return F.normalize(encoded.mean(dim=1), dim=1)

    def pictures(self, split: str, positions: Tensor) -> Tensor:
        """Images of a split as they are stored: uint8 (n, 3, 8, 8), at positions int64 (n,) of the split."""
        pool, rows = self.pool_positions(split)
        grey = self._grey[self._rows[pool][rows[torch.as_tensor(positions)]].numpy()]
        return torch.from_numpy(np.rint(grey * 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
