"""Few-shot data whose features are made here: image files and class names, an encoder, a feature bank."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from datamodules.encoded.feature_bank import (
    BankKey,
    EncodeRange,
    FeatureBank,
    fill_bank,
    fingerprint_of,
    open_bank,
)
from datamodules.encoded.feature_sets import clean_features
from datamodules.encoded.few_shot import FewShotDataModule, Pools
from datamodules.encoded.prompts import prompts, readable_names, templates_of
from datamodules.files.listing import name_below
from datamodules.images.encoder_views import ImageFileViews, ViewSettings
from records.console import progress
from records.environment import is_first_process
from records.errors import UserError

Encode = Literal["pool", "drawn"]
TEXT_BATCH = 256
WHOLE_BYTES = 1 << 14
"""Up to this size the whole of an image file goes into the fingerprint."""
END_BYTES = 1 << 10
"""Of a larger one this much at either end."""
DRAWN = "train-drawn"
"""Name of the bank of the drawn training images alone."""


class Encoder(Protocol):
    """What makes features of images and sentences."""

    @property
    def name(self) -> str:
        """Name of the encoder, fit for a file name."""

    @property
    def identity(self) -> str:
        """Sha256 over everything its features depend on."""

    @property
    def image_size(self) -> int:
        """Side of its images in pixels."""

    @property
    def resize(self) -> int:
        """Length in pixels of an image's short side before the centre is cut out; `image_size` or more."""

    @property
    def has_text(self) -> bool:
        """Whether it encodes sentences."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S) uint8 to features float32 (B, D)."""

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Map sentences to features float32 (n, D)."""


@dataclass(frozen=True)
class ListedImages:
    """A list of images that pools are drawn from by seed: encoded whole, it has the features of every draw.

    Args:
        name: of its bank; "train" for the list that the training images come from.
        files: in an order that no draw changes.
        rows: where the images of each of these pools lie in the list, int64 (N,) by pool.
    """

    name: str
    files: tuple[Path, ...]
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class ImagePools:
    """Image files and labels of the pools, and the names of the classes.

    Args:
        root: folder that the files' names in fingerprints are relative to; a file elsewhere has its whole path there.
        files: paths by pool: "train", "test", and "val" where the data have one.
        labels: int64 (N,) by pool.
        class_names: C of them.
        seen_classes: bool (C,); None: all classes have training images.
        listed: what pools that a seed decides on are drawn from; None where no pool is drawn.
    """

    root: Path
    files: Mapping[str, tuple[Path, ...]]
    labels: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    seen_classes: Tensor | None = None
    listed: ListedImages | None = None


Fill = Callable[[FeatureBank, str, EncodeRange], Tensor]
"""Takes a bank, what is encoded for it, and what encodes it; returns all of its features (N, V, D)."""


def fill_and_tell(bank: FeatureBank, what: str, encode: EncodeRange) -> Tensor:
    """Compute what a bank lacks, together with the other processes, say how far it is, and return all of it."""
    with progress(f"encoding {what}", is_first_process()) as report:
        return fill_bank(bank, encode, *_ranks(), report)


class EncodedFewShot(FewShotDataModule):
    """Few-shot features of image files; an encoder must be attached before `setup`.

    Every image is encoded once per encoder, view settings and list of files, and kept in a bank below `bank_dir`.

    Args:
        views: random crops of each training image; 0 for the centre crop that every evaluated image has.
        view_seed: of the crops.
        templates: sentences around a class name, see `datamodules.encoded.prompts.templates_of`.
        encode: "pool" encodes whole pools, once for all draws, and where pools themselves are drawn the list that they
            are drawn from; "drawn" the drawn training images alone, and a drawn test part anew for each draw.
        bank_dir: folder of the feature banks.
        bank: the folder of the training images' bank itself, in place of one that is found or made below `bank_dir`.
        encode_batch_size: images per call of the encoder.
        shared: see `FewShotDataModule`.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        *,
        views: int = 0,
        view_seed: int = 0,
        templates: str = "dataset",
        encode: Encode = "pool",
        bank_dir: str | Path = "feature_bank",
        bank: str | Path | None = None,
        encode_batch_size: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for key, value, least in (("views", views, 0), ("encode_batch_size", encode_batch_size, 1)):
            if value < least:
                raise UserError(f"data.{key} is {value}; it must be at least {least}")
        if encode not in get_args(Encode):
            raise UserError(f"data.encode is {encode!r}; the choices are {', '.join(get_args(Encode))}")
        self.views = views
        self.view_seed = view_seed
        self.templates = templates
        self.encode: Encode = encode
        self.bank_dir = Path(bank_dir)
        self.bank = None if bank is None else Path(bank)
        self.encode_batch_size = encode_batch_size
        self._encoder: Encoder | None = None
        self._fill: Fill = fill_and_tell
        self._images: ImagePools | None = None
        self._banks: dict[tuple[str, tuple[Path, ...], int], Tensor] = {}

    @property
    @abstractmethod
    def dataset_name(self) -> str:
        """Name of the data set, as `datamodules.encoded.prompts.DATASET_TEMPLATES` knows it."""

    @abstractmethod
    def load_images(self) -> ImagePools:
        """Read which image has which label; called once."""

    def class_words(self) -> Sequence[str]:
        """Return what sentences call the classes, before underscores become blanks; their names."""
        return self.images.class_names

    def sentences(self, names: Sequence[str]) -> list[list[str]]:
        """Return the sentences about each class, by its readable name."""
        return prompts(names, templates_of(self.templates, self.dataset_name))

    def attach_encoder(self, encoder: Encoder, fill: Fill | None = None) -> None:
        """Give the encoder that makes the features, and what fills the banks; None is `fill_and_tell`."""
        self._encoder, self._fill = encoder, fill or fill_and_tell

    @property
    def encoder(self) -> Encoder:
        """The attached encoder."""
        if self._encoder is None:
            raise ValueError("no encoder is attached: features of images are made by one; call attach_encoder first")
        return self._encoder

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder is attached."""
        return self._encoder is not None

    def redrawn(self, seed: int, split_seed: int, split_file: str | Path | None = None) -> Self:
        """Return the same data with another draw; features are shared, but those of a draw's own images."""
        other = super().redrawn(seed, split_seed, split_file)
        other._banks = {kept: rows for kept, rows in self._banks.items() if kept[0] != DRAWN}
        if self.pools_are_drawn:
            other._images = None
        return other

    @property
    def images(self) -> ImagePools:
        """Image files and labels; read at the first use."""
        if self._images is None:
            self._images = self.load_images()
        return self._images

    @property
    def source_name(self) -> str:
        """Name of the data set."""
        return self.dataset_name

    @property
    def evaluation_protocol(self) -> dict[str, str | int]:
        """Those of the draw, and templates, views and encoder."""
        return {
            **super().evaluation_protocol,
            "templates": self.templates,
            "views": self.views,
            "encoder": self.encoder.identity[:16],
        }

    def load_pools(self) -> Pools:
        """Hand on labels and names."""
        return Pools(self.images.labels, self.images.class_names, self.images.seen_classes)

    def pool_features(self, pool: str, positions: Tensor, split: str) -> Tensor:
        """Features of a pool at positions int64 (n,): float32 (n, D), or (n, V, D) where a training image has views.

        Validation images that come from the training pool are seen as evaluated images are, by their centre.
        """
        views = self.views if split == "train" else 0
        features = clean_features(self._rows_of(pool, positions, views), f"the features of {pool!r}", "scale")
        return features if views > 1 else features[:, 0]

    def _rows_of(self, pool: str, positions: Tensor, views: int) -> Tensor:
        files, listed = self.images.files[pool], self.images.listed
        if self.encode == "drawn" and pool == "train":
            return self._encoded(DRAWN, tuple(files[position] for position in positions.tolist()), views)
        if self.encode == "pool" and listed is not None and pool in listed.rows:
            return self._encoded(listed.name, listed.files, views)[listed.rows[pool][positions]]
        return self._encoded(pool, files, views)[positions]

    def features_of(self, name: str, files: Sequence[Path]) -> Tensor:
        """Encode the centres of any image files, kept in a bank of this name: float32 (N, D) of unit length."""
        return clean_features(self._encoded(name, tuple(files), 0)[:, 0], f"the features of {name!r}", "scale")

    def _encoded(self, name: str, files: tuple[Path, ...], views: int) -> Tensor:
        kept = (name, files, views)
        if kept not in self._banks:
            self._banks[kept] = self._make_bank(name, files, views)
        return self._banks[kept]

    def _make_bank(self, name: str, files: tuple[Path, ...], views: int) -> Tensor:
        settings = ViewSettings(self.encoder.image_size, views, self.view_seed, self.encoder.resize)
        items = fingerprint_of([_file_item(file, self.images.root) for file in files])
        key = BankKey("images", self.encoder.identity, settings.text, settings.count, items)
        if self.bank is not None and name == "train" and views == self.views:
            bank = FeatureBank(self.bank, key, len(files))
        else:
            bank = open_bank(self.bank_dir, f"{self.dataset_name}-{name}-{self.encoder.name}", key, len(files))
        source = ImageFileViews(files, settings)
        what = f"the images of {name!r} by {self.encoder.name}"
        return self._fill(bank, what, lambda start, stop: self._encode_range(source, start, stop))

    def _encode_range(self, source: ImageFileViews, start: int, stop: int) -> Iterator[Tensor]:
        size = max(1, self.encode_batch_size // source.settings.count)
        loader: DataLoader[Tensor] = DataLoader(
            Subset(source, range(start, stop)), batch_size=size, num_workers=self.num_workers
        )
        for images in loader:
            yield self.encoder.encode_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def load_text(self) -> Tensor | None:
        """Encode every class's sentences, and average them at unit length: (C, D); None without a text encoder.

        Source: t_k = normalise(mean over templates of normalise(text(template(name)))); Radford et al., 2021, section
            3.1.4.
        """
        if not self.encoder.has_text:
            return None
        by_class = self.sentences(readable_names(self.class_words()))
        flat = [sentence for sentences in by_class for sentence in sentences]
        key = BankKey("text", self.encoder.identity, "sentences as they are", 1, fingerprint_of(flat))
        bank = open_bank(self.bank_dir, f"{self.dataset_name}-text-{self.encoder.name}", key, len(flat))
        what = f"the sentences by {self.encoder.name}"
        rows = self._fill(bank, what, lambda start, stop: self._encode_sentences(flat[start:stop]))
        units = clean_features(rows[:, 0], "the text features", "scale")
        means = torch.stack([part.mean(dim=0) for part in units.split([len(one) for one in by_class])])
        return clean_features(means, "the mean text features", "scale")

    def _encode_sentences(self, sentences: Sequence[str]) -> Iterator[Tensor]:
        for start in range(0, len(sentences), TEXT_BATCH):
            yield self.encoder.encode_text(sentences[start : start + TEXT_BATCH])[:, None]

    def pictures(self, split: str, positions: Tensor) -> Tensor:
        """Centres of a split's images at the encoder's size: uint8 (n, 3, S, S), at positions int64 (n,) of it."""
        pool, rows = self.pool_positions(split)
        files = [self.images.files[pool][row] for row in rows[torch.as_tensor(positions)].tolist()]
        views = ImageFileViews(files, ViewSettings(self.encoder.image_size, resize=self.encoder.resize))
        return torch.cat([views[place] for place in range(len(files))])


def _file_item(file: Path, root: Path) -> str:
    """Name a file in a fingerprint by what a copy to elsewhere keeps: path below the root (else whole), size, content.

    Of a large file the two ends stand for the content: those of compressed images differ where the images do.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            content = stream.read(size if size <= WHOLE_BYTES else END_BYTES)
            if size > WHOLE_BYTES:
                stream.seek(-END_BYTES, os.SEEK_END)
                content += stream.read()
        return f"{name_below(file, root)} {size} {hashlib.sha256(content).hexdigest()}"
    except OSError as error:
        raise UserError(f"the image {file} cannot be read: {error.strerror}") from error


def _ranks() -> tuple[int, int]:
    """Rank and number of processes, as torchrun or srun tell them before any process group exists."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1
