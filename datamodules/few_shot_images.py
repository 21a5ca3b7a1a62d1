"""Few-shot draws as images, for tasks that train an encoder; one seed draws the same images as for features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.augmentation.framing import FrameAndFlip
from datamodules.base import ImageDataModule, LabelledImages
from datamodules.coop_splits import Dataset, FewShotImages
from datamodules.digits import read_digits
from datamodules.digits_fewshot import DigitsFewShot
from datamodules.encoded.encoded_images import EncodedFewShot
from datamodules.encoded.few_shot import POOLS, FewShotDataModule, TooFew, Validation, draw_few_shot
from datamodules.encoded.prompts import prompts, readable_names
from datamodules.files.listing import name_below
from datamodules.images.image_files import CentreCut, ImageFiles
from datamodules.jittor import Jittor
from datamodules.sampling.splits import label_fingerprint, names_fingerprint
from records.errors import UserError

RESAMPLING = Image.Resampling.BICUBIC
"""CLIP's, and that of the feature banks."""
DIGIT_TEMPLATE = ('a photo of the number: "{}".',)
"""CLIP's template for MNIST (openai/CLIP, data/prompts.md)."""


class FewShotImageData(ImageDataModule):
    """The draw of a few-shot data module, its images instead of features; a kind of data says where they lie.

    Attributes:
        source: draws the support set and the validation part, by the same `split_seed`; set by each kind of data.
    """

    source: FewShotDataModule

    @abstractmethod
    def places(self, pool: str, positions: Tensor) -> Tensor:
        """Return where the images of a pool at positions int64 (n,) lie in the data: int64 (m,), m <= n."""

    @property
    @abstractmethod
    def class_sentences(self) -> list[list[str]]:
        """The sentences about each class, C lists."""

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return f"{self.source.protocol_name}-images"

    @property
    def has_validation(self) -> bool:
        """Whether the draw has validation images."""
        return self.source.validation_shots != 0

    @property
    def seen_classes(self) -> Tensor | None:
        """Bool (C,), the classes that have training images by design; None where no class is held back."""
        return self.source.pools.seen_classes

    @property
    def evaluation_protocol(self) -> dict[str, str | int]:
        """Shots, validation shots and seed of the draw, for the record."""
        counted = len(self.positions("val")) if self.has_validation else 0
        return {
            "shots": "all" if self.source.shots is None else self.source.shots,
            "validation": self.source.validation,
            "validation_samples": counted,
            "split_seed": self.split_seed,
        }

    def draw_parts(self, labels: Tensor) -> dict[str, Tensor]:
        """Draw as the source does, and find the images.

        Raises:
            UserError: a part that is asked for has no image.
        """
        pools, source = self.source.pools, self.source
        drawn = draw_few_shot(pools, source.shots, source.validation_shots, source.split_seed, source.too_few)
        parts = {
            "train": self.places("train", drawn.support),
            "validation": self.places(drawn.validation_pool, drawn.validation),
            "test": self.places("test", torch.arange(len(pools.labels["test"]))),
        }
        if not self.has_validation:
            parts.pop("validation")
        empty = [part for part, rows in parts.items() if not len(rows)]
        if empty:
            raise UserError(f"the draw leaves no image for {empty[0]}: fewer data.shots, or data.validation=none")
        return parts


class DigitsFewShotImages(FewShotImageData):
    """The digits of `data=digits_fewshot` as images: the same support, validation and test.

    Args:
        shots, validation, too_few, split_seed: see `FewShotDataModule`.
        settings: see `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        shots: int | None = 4,
        validation: Validation = "min(shots,4)",
        too_few: TooFew = "error",
        split_seed: int = 0,
        seed: int,
        **settings: Any,
    ) -> None:
        super().__init__(split_seed=split_seed, seed=seed, **settings)
        self.source: DigitsFewShot = DigitsFewShot(
            shots=shots, validation=validation, too_few=too_few, split_seed=split_seed, seed=seed
        )

    def load(self) -> LabelledImages:
        """Read the digits, whole."""
        return read_digits(self.image_size)

    def places(self, pool: str, positions: Tensor) -> Tensor:
        """Return where the images of a pool at positions int64 (n,) lie among all digits: int64 (n,)."""
        return self.source.pool_rows(pool)[positions]

    @property
    def class_sentences(self) -> list[list[str]]:
        """A photo of each number."""
        return prompts(self.source.pools.class_names, DIGIT_TEMPLATE)


class FewShotFiles(FewShotImageData):
    """Image files of a few-shot data set; of an encoder's data it takes pools and sentences, and encodes nothing.

    Training images are framed at random; evaluated ones lose what is beyond the centre square, bicubic.

    Args:
        resize: shorter side before the crop; None takes the image size, so that evaluated images are cut as encoders
            see them.
        settings: see `ImageDataModule`.
    """

    source: EncodedFewShot

    def __init__(self, *, resize: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.resize = resize

    @classmethod
    def centre_cut(cls, settings: Mapping[str, Any], image_size: int) -> CentreCut:
        """Return how an image file is framed that is judged as these data's own are: as encoders see it."""
        return CentreCut(settings.get("resize") or image_size, RESAMPLING)

    def build_augmentation(self, settings: Mapping[str, object] | None) -> FrameAndFlip | None:
        """Build the random change of training images that the key `augment` asks for."""
        return FrameAndFlip.from_config(settings)

    @property
    def classes(self) -> Tensor:
        """Which classes of the source these data have, int64 (C,); all."""
        return torch.arange(len(self.source.pools.class_names))

    @property
    def seen_classes(self) -> Tensor | None:
        """Bool (C,), the classes that have training images by design; None where no class is held back."""
        seen = self.source.pools.seen_classes
        return None if seen is None or bool(seen[self.classes].all()) else seen[self.classes]

    def load(self) -> LabelledImages:
        """List the files of all pools, one after another."""
        pools = self.source.images
        kept = torch.cat([self._kept(pool) for pool in self._pools])
        labels = torch.cat([pools.labels[pool] for pool in self._pools])[kept]
        size = self.image_size
        source = ImageFiles(pools.root, self._names, self._renumbered(labels), size, self.resize or size, RESAMPLING)
        return LabelledImages(source, tuple(pools.class_names[number] for number in self.classes.tolist()))

    def places(self, pool: str, positions: Tensor) -> Tensor:
        """Return where the images of a pool at positions int64 (n,) lie, those of other classes left out."""
        before = sum(int(self._kept(one).sum()) for one in self._pools[: self._pools.index(pool)])
        kept = self._kept(pool)
        return before + (kept.cumsum(dim=0) - 1)[positions[kept[positions]]]

    def data_fingerprint(self, labels: Tensor) -> str:
        """Hash labels and names below the root, in their order."""
        return names_fingerprint(self._names, label_fingerprint(labels))

    @property
    def class_sentences(self) -> list[list[str]]:
        """The sentences about each class, C lists."""
        sentences = self.source.sentences(readable_names(self.source.class_words()))
        return [sentences[number] for number in self.classes.tolist()]

    @property
    def _pools(self) -> list[str]:
        return [pool for pool in POOLS if pool in self.source.images.files]

    @property
    def _names(self) -> list[str]:
        pools = self.source.images
        return [
            name_below(file, pools.root)
            for pool in self._pools
            for file, kept in zip(pools.files[pool], self._kept(pool).tolist(), strict=True)
            if kept
        ]

    def _kept(self, pool: str) -> Tensor:
        return torch.isin(self.source.images.labels[pool], self.classes)

    def _renumbered(self, labels: Tensor) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.classes.numpy(), labels.numpy()))


class FewShotImageFiles(FewShotFiles):
    """CoOp's eleven data sets, or your own images with fixed parts, as images (`datamodules/coop_splits.py`).

    Args:
        root, dataset, split_list: see `FewShotImages`.
        templates: sentences around a class name.
        shots, validation, too_few, split_seed: see `FewShotDataModule`.
        settings: see `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        dataset: Dataset,
        split_list: str | Path | None = None,
        templates: str = "dataset",
        shots: int | None = 16,
        validation: Validation = "min(shots,4)",
        too_few: TooFew = "error",
        split_seed: int = 0,
        seed: int,
        **settings: Any,
    ) -> None:
        super().__init__(split_seed=split_seed, seed=seed, **settings)
        self.source = FewShotImages(
            root=root, dataset=dataset, split_list=split_list, templates=templates, shots=shots,
            validation=validation, too_few=too_few, split_seed=split_seed, seed=seed,
        )  # fmt: skip


class JittorImages(FewShotFiles):
    """The contest's images, or those of some of its classes: what an expert of a cascade is trained on.

    Args:
        root, support_list, test_fraction, hold_unseen, templates_by_prefix: see `Jittor`.
        only: beginnings of the names of the classes that are taken; none takes all. The draw does not depend on it.
        templates: sentences around a class name.
        shots, validation, too_few, split_seed: see `FewShotDataModule`.
        settings: see `ImageDataModule`.

    Raises:
        UserError: no class begins so.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        support_list: str | Path | None = None,
        test_fraction: float = 0.2,
        hold_unseen: Sequence[str] = (),
        templates_by_prefix: Mapping[str, str] | None = None,
        only: Sequence[str] = (),
        templates: str = "dataset",
        shots: int | None = 4,
        validation: Validation = "min(shots,4)",
        too_few: TooFew = "error",
        split_seed: int = 0,
        seed: int,
        **settings: Any,
    ) -> None:
        super().__init__(split_seed=split_seed, seed=seed, **settings)
        self.source = Jittor(
            root=root, support_list=support_list, test_fraction=test_fraction, hold_unseen=hold_unseen,
            templates_by_prefix=templates_by_prefix, templates=templates, shots=shots, validation=validation,
            too_few=too_few, split_seed=split_seed, seed=seed,
        )  # fmt: skip
        self.only = tuple(only)

    @property
    def classes(self) -> Tensor:
        """Which classes of the contest these data have, int64 (C,)."""
        names = self.source.images.class_names
        chosen = [number for number, name in enumerate(names) if not self.only or name.startswith(self.only)]
        if not chosen:
            raise UserError(f"data.only={list(self.only)}: no class begins so; the first are {', '.join(names[:5])}")
        return torch.tensor(chosen, dtype=torch.int64)

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        only = "-".join(one.strip("_") for one in self.only)
        return f"{super().protocol_name}-{only}" if only else super().protocol_name
