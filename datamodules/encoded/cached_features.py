"""Image data whose images a frozen backbone has looked at once: the same splits, orders and facts, as features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.encoded.feature_sets import FeatureData, FeatureDataModule, FeatureSet


class CachedFeatures(FeatureDataModule):
    """The splits of `source` as features; order, sampling and everything a report asks for stay the source's own.

    Args:
        source: the image data.
        sets: features and labels of each of its splits, in its order.
    """

    def __init__(self, source: ImageDataModule, sets: Mapping[str, FeatureSet]) -> None:
        super().__init__(
            seed=source.seed,
            batch_size=source.batch_size,
            eval_batch_size=source.eval_batch_size,
            image_size=source.image_size,
        )
        self.source = source
        self._sets = dict(sets)

    def load(self) -> FeatureData:
        """Return the features as they were given."""
        return FeatureData(self._sets, self.source.class_names)

    def training_order(self, epoch: int) -> Tensor:
        """Order the training split as the images would be, sampling rule included."""
        return self.source.training_order(epoch)

    def pictures(self, split: str, positions: Tensor) -> Tensor:
        """Images of a split as they are stored: uint8 (n, 3, H, W)."""
        return self.source.pictures(split, positions)

    @property
    def val_splits(self) -> tuple[str, ...]:
        """Splits of the validation loaders."""
        return self.source.val_splits

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits of the test loaders."""
        return self.source.test_splits

    @property
    def has_validation(self) -> bool:
        """Whether a validation part is held out."""
        return self.source.has_validation

    @property
    def fingerprint(self) -> str:
        """The source's: which images are in which split."""
        return self.source.fingerprint
