"""CIFAR-10-LT and CIFAR-100-LT: CIFAR with a long-tailed training part."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from datamodules.base import ImageDataModule, LabelledImages
from datamodules.files.cifar_files import (
    CIFAR10,
    CIFAR100,
    Distribution,
    Verify,
    check_verify,
    ensure_files,
    read_cifar,
)
from datamodules.images.source import ImageArray
from datamodules.long_tail import LongTail


class CifarRecognition(ImageDataModule):
    """CIFAR-10 or CIFAR-100 with its official parts: 50,000 training images and 10,000 test images.

    Args:
        root: folder that holds one of the folders that `datamodules.files.cifar_files` names.
        download: fetch the files where none is there.
        verify: what files that are not the official ones mean: "error", "warn" or "off" (which YAML reads as False
            where it is not quoted).
        settings: see `ImageDataModule`.

    Raises:
        UserError: a value is not one of the choices.
    """

    distributions: ClassVar[tuple[Distribution, ...]]
    protocol: ClassVar[str]

    def __init__(
        self,
        *,
        root: str | Path,
        download: bool = True,
        verify: Verify | Literal[False] = "error",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = root
        self.download = download
        self.verify = check_verify(verify)
        self._train_count = 0

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return self.protocol

    @property
    def drawn_by_seed(self) -> bool:
        """Whether `split_seed` has a say: only where a validation part is held out."""
        return self.has_validation

    def prepare_data(self) -> None:
        """Fetch the files where they are missing and `download` allows it.

        Raises:
            UserError: they are missing and cannot be fetched.
        """
        ensure_files(self.root, self.distributions, self.download)

    def load(self) -> LabelledImages:
        """Read the official training part and then the official test part."""
        cifar = read_cifar(self.root, ensure_files(self.root, self.distributions, self.download), self.verify)
        self._train_count = cifar.train_count
        return LabelledImages(ImageArray(cifar.images, cifar.labels, self.image_size), cifar.class_names)

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take the official parts."""
        return {"train": torch.arange(self._train_count), "test": torch.arange(self._train_count, len(labels))}


class Cifar10Recognition(CifarRecognition):
    """CIFAR-10 with its official parts."""

    distributions = CIFAR10
    protocol = "cifar10"


class Cifar100Recognition(CifarRecognition):
    """CIFAR-100 with its official parts."""

    distributions = CIFAR100
    protocol = "cifar100"


class Cifar10LongTail(LongTail, Cifar10Recognition):
    """CIFAR-10 with a long-tailed training part, and the official, balanced test part.

    Training images by type and ratio, with `val_fraction=0`::

        ratio        1      10      20      50     100     200
        exp     50,000  20,431  17,023  13,996  12,406  11,203
        step    50,000  27,500  26,250  25,500  25,250  25,125

    Source: Cao et al., NeurIPS 2019; see `datamodules.long_tail`. The arguments are those of `LongTail` and
        `CifarRecognition`.
    """


class Cifar100LongTail(LongTail, Cifar100Recognition):
    """CIFAR-100 with a long-tailed training part, and the official, balanced test part.

    Training images by type and ratio, with `val_fraction=0`::

        ratio        1      10      20      50     100     200
        exp     50,000  19,573  15,907  12,608  10,847   9,502
        step    50,000  27,500  26,250  25,500  25,250  25,100

    Source: Cao et al., NeurIPS 2019; see `datamodules.long_tail`. The arguments are those of `LongTail` and
        `CifarRecognition`.
    """
