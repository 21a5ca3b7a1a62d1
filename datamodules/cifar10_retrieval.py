"""CIFAR-10 as the hashing literature searches it, under its three protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.base import LabelledImages, RetrievalDataModule
from datamodules.files.cifar_files import CIFAR10, Verify, check_verify, ensure_files, read_cifar
from datamodules.images.source import ImageArray
from datamodules.sampling.splits import per_class_parts
from records.errors import UserError

PROTOCOLS = (1, 2, 54000)
QUERIES_PER_CLASS = 100
TRAINING_PER_CLASS = 500


class Cifar10Retrieval(RetrievalDataModule):
    """CIFAR-10, 60,000 images of 32 x 32 pixels in 10 classes, under protocol 1, 2 or 54000.

    Folders it reads, either of them below `root`::

        cifar-10-batches-py/     data_batch_1 .. data_batch_5, test_batch, batches.meta
        cifar-10-batches-bin/    data_batch_1.bin .. data_batch_5.bin, test_batch.bin, batches.meta.txt

    Sizes with `val_fraction=0`::

        protocol    train     query    database
        1           5,000     1,000      59,000    all but the queries: the training images are in it
        2          50,000    10,000      50,000    the official parts: the training images are the database
        54000       5,000     1,000      54,000    neither queries nor training images

    Protocols 1 and 54000 pool all 60,000 images and draw 100 queries and then 500 training images of each
    class by `split_seed`; the same seed draws the same queries and training images in both. The literature
    publishes no lists for them: figures are comparable between equal split files, and only roughly between
    others.

    Source: Su et al., "Greedy hash", NeurIPS 2018 (protocols I and II); Cao et al., "HashNet", ICCV 2017
        (54,000).

    Args:
        protocol: 1, 2 or 54000.
        root: folder that holds one of the folders above.
        download: fetch the files where neither folder is there.
        verify: what files that are not the official ones mean: "error", "warn" or "off" (which YAML reads
            as False where it is not quoted).
        settings: see `ImageDataModule`.

    Raises:
        UserError: a value is not one of the choices.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        protocol: Literal[1, 2, 54000] = 1,
        download: bool = True,
        verify: Verify | Literal[False] = "error",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if protocol not in PROTOCOLS:
            raise UserError(f"data.protocol is {protocol!r}; the choices are {', '.join(map(str, PROTOCOLS))}")
        self.root = root
        self.protocol = protocol
        self.download = download
        self.verify = check_verify(verify)
        self._train_count = 0

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return f"cifar10-protocol-{self.protocol}"

    @property
    def drawn_by_seed(self) -> bool:
        """Whether `split_seed` has a say: not in protocol 2, unless a validation part is held out of it."""
        return self.protocol != 2 or self.has_validation

    def prepare_data(self) -> None:
        """Fetch the files where they are missing and `download` allows it.

        Raises:
            UserError: they are missing and cannot be fetched.
        """
        ensure_files(self.root, CIFAR10, self.download)

    def load(self) -> LabelledImages:
        """Read the official training part and then the official test part."""
        distribution = ensure_files(self.root, CIFAR10, self.download)
        cifar = read_cifar(self.root, distribution, self.verify)
        self._train_count = cifar.train_count
        return LabelledImages(ImageArray(cifar.images, cifar.labels, self.image_size), cifar.class_names)

    def draw_parts(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make the protocol's training part, queries and database."""
        if self.protocol == 2:
            return official_parts(len(labels), self._train_count)
        return drawn_parts(labels, self.split_seed, database_holds_train=self.protocol == 1)


def official_parts(size: int, train_count: int) -> dict[str, torch.Tensor]:
    """Protocol 2: the official test part queries the official training part."""
    train = torch.arange(train_count)
    return {"train": train, "query": torch.arange(train_count, size), "database": train}


def drawn_parts(labels: torch.Tensor, seed: int, database_holds_train: bool) -> dict[str, torch.Tensor]:
    """Protocols 1 and 54000: queries and training images drawn per class from the pool of all images.

    Args:
        labels: int64 (N,).
        seed: any integer.
        database_holds_train: whether the training images belong to the database (protocol 1).

    Raises:
        UserError: a class has too few images.
    """
    counts = [("query", QUERIES_PER_CLASS), ("train", TRAINING_PER_CLASS)]
    parts, rest = per_class_parts(labels, counts, seed)
    database = torch.cat([parts["train"], rest]).sort().values if database_holds_train else rest
    return {**parts, "database": database}
