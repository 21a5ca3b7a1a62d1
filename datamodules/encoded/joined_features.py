"""The same few-shot images in the eyes of several encoders, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.encoded.encoded_images import EncodedFewShot
from datamodules.encoded.feature_sets import FeatureData, FeatureDataModule, FeatureSet
from records.errors import UserError


@runtime_checkable
class HasTestFolders(Protocol):
    """Data with folders of images that have no labels, which answers are written for."""

    def test_folder(self, folder: str) -> list[Path]:
        """List the images of a test folder."""

    def test_folder_features(self, folder: str) -> tuple[list[str], Tensor]:
        """Encode a test folder: file names, and features float32 (N, D)."""


class JoinedFeatures(FeatureDataModule):
    """Features of several encoders, concatenated: a batch's `feature` is (B, D1 + D2 + ...), in the order of `parts`.

    The draw, the labels and all facts are those of the first part; text features are found with each part.

    Args:
        parts: encoder to the data with this encoder attached, all made from one configuration.

    Raises:
        UserError: two parts have drawn different images.
    """

    def __init__(self, parts: Mapping[str, EncodedFewShot]) -> None:
        self.parts = dict(parts)
        first = next(iter(self.parts.values()))
        super().__init__(
            seed=first.seed,
            batch_size=first.batch_size,
            eval_batch_size=first.eval_batch_size,
            num_workers=0,
            image_size=first.image_size,
        )
        self.first = first

    def load(self) -> FeatureData:
        """Encode by each encoder, and lay the features side by side."""
        for part in self.parts.values():
            part.setup()
        if len({part.splits.fingerprint for part in self.parts.values()}) > 1:
            raise UserError("the parts of joined features have drawn different images: give them one split_seed")
        data = self.first.data
        sets = {split: FeatureSet(self._joined(split), one.labels) for split, one in data.sets.items()}
        unlabelled = [part.data.unlabelled_features for part in self.parts.values()]
        known = [one for one in unlabelled if one is not None]
        joined = torch.cat(known, dim=-1) if len(known) == len(unlabelled) else None
        return FeatureData(sets, data.class_names, None, joined, data.seen_classes)

    def _joined(self, split: str) -> Tensor:
        return torch.cat([part.data.sets[split].features for part in self.parts.values()], dim=-1)

    @property
    def evaluation_protocol(self) -> dict[str, str | int]:
        """Those of the first part, and the weights of every encoder."""
        encoders = {name: part.evaluation_protocol["encoder"] for name, part in self.parts.items()}
        shared = {key: value for key, value in self.first.evaluation_protocol.items() if key != "encoder"}
        return {**shared, **{f"encoder {name}": identity for name, identity in encoders.items()}}

    @property
    def fingerprint(self) -> str:
        """Sha256 over the fingerprints of the parts."""
        return hashlib.sha256("".join(part.fingerprint for part in self.parts.values()).encode()).hexdigest()

    def pictures(self, split: str, positions: Tensor) -> Tensor:
        """Images of a split as the first encoder sees them: uint8 (n, 3, S, S)."""
        return self.first.pictures(split, positions)

    def test_folder_features(self, folder: str) -> tuple[list[str], Tensor]:
        """Encode a test folder by each encoder: file names, and features float32 (N, D1 + D2 + ...).

        Raises:
            UserError: these data have no test folders, or this one is missing.
        """
        encoded = [_with_test_folders(part).test_folder_features(folder) for part in self.parts.values()]
        return encoded[0][0], torch.cat([features for _, features in encoded], dim=-1)

    def test_folder(self, folder: str) -> list[Path]:
        """List the images of a test folder.

        Raises:
            UserError: these data have no test folders, or this one is missing.
        """
        return _with_test_folders(self.first).test_folder(folder)


def _with_test_folders(part: EncodedFewShot) -> HasTestFolders:
    if not isinstance(part, HasTestFolders):
        raise UserError(
            f"the data set {part.dataset_name} has no test folders without labels, which answers are written for; "
            "data=jittor has"
        )
    return part
