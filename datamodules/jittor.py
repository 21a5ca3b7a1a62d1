"""The open-domain few-shot contest's data: classes of five sets told apart by prefixes, some of them without images.

Folder it reads (the fourth Jittor challenge, track 2)::

    classes.txt, classes_b.txt    PREFIX_Name number        the second, where it is there, adds the unseen classes
    train.txt                     TrainSet/PREFIX/Name/1.jpg number    (or a comma between the two)
    TrainSet/, TestSetA/, TestSetB/                         the test folders are flat: image_7.jpg

    prefix            classes   numbers
    Animal_             52        0 ..  51
    Caltech-101_        91       52 .. 142
    Food-101_          101      143 .. 243
    Thu-dog_           130      244 .. 373     374 seen
    Stanford-Cars_      29      374 .. 402     unseen: no training image

Source: the contest's baseline, uyzhang/JCLIP. The test folders have no labels: accuracies are of held-out training
images, answers for a test folder are written by `records.submission`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from datamodules.coop_splits import Item, pools_of
from datamodules.encoded.encoded_images import EncodedFewShot, ImagePools, ListedImages
from datamodules.encoded.prompts import SINGLE, prompts
from datamodules.sampling.randomness import Stream
from datamodules.sampling.splits import stratified_hold_out
from records.errors import UserError

TestFolder = Literal["TestSetA", "TestSetB"]
TEMPLATES_BY_PREFIX: Mapping[str, str] = {
    "Animal_": "a photo of a {}, a type of animal.",
    "Caltech-101_": "a photo of a {}.",
    "Food-101_": "a photo of {}, a type of food.",
    "Thu-dog_": "a photo of a {}, a type of dog.",
    "Stanford-Cars_": "a photo of a {}, a type of car.",
}


def read_classes(file: Path) -> list[str]:
    """Read lines `NAME number`, numbers 0, 1, ... in any order; names by number.

    Raises:
        UserError: the file is missing, a line has another form, or numbers are missing or double.
    """
    numbered: dict[int, str] = {}
    for place, line in enumerate(_lines(file), start=1):
        name, _, number = line.rpartition(" ")
        if not name or not number.isdecimal() or int(number) in numbered:
            raise UserError(f"{file}: line {place} is {line!r}; it takes NAME number, each number once")
        numbered[int(number)] = name.strip()
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"{file}: class numbers must run from 0 to {len(numbered) - 1} without gaps")
    return [numbered[number] for number in range(len(numbered))]


def read_image_list(file: Path, root: Path) -> list[Item]:
    """Read lines `PATH number` or `PATH,number`; paths start from root.

    Raises:
        UserError: the file is missing, or a line has another form.
    """
    items: list[Item] = []
    for place, line in enumerate(_lines(file), start=1):
        found = re.fullmatch(r"(.+?)\s*[, ]\s*(\d+)", line)
        if found is None:
            raise UserError(f"{file}: line {place} is {line!r}; it takes PATH number")
        items.append((root / found[1], int(found[2])))
    return items


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def prefix_of(name: str, prefixes: Sequence[str]) -> str:
    """Return which prefix a class name begins with; nothing where it is none of them."""
    return next((prefix for prefix in prefixes if name.startswith(prefix)), "")


class Jittor(EncodedFewShot):
    """The contest's classes, 374 seen and 29 unseen, with held-out training images as the test part.

    Args:
        root: folder of the files above.
        support_list: file of training images in the form of train.txt, a committed choice of 4 shots; its images are
            the support pool (with `shots=null` all of them), all others the rest. None draws from train.txt by seed.
        test_fraction: share of the remaining training images of each class that is the test part.
        hold_unseen: prefixes of classes that are treated as unseen: all their training images are tested.
        templates_by_prefix: sentence for the classes of each prefix, used with `templates="dataset"`.
        shared: see `EncodedFewShot`.

    Raises:
        UserError: files are missing or of another form, or a setting is out of range.
    """

    pools_are_drawn: ClassVar[bool] = True

    def __init__(
        self,
        *,
        root: str | Path,
        support_list: str | Path | None = None,
        test_fraction: float = 0.2,
        hold_unseen: Sequence[str] = (),
        templates_by_prefix: Mapping[str, str] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < test_fraction < 1:
            raise UserError(f"data.test_fraction is {test_fraction}; it must lie between 0 and 1")
        self.root = Path(root).expanduser()
        self.support_list = None if support_list is None else Path(support_list).expanduser()
        self.test_fraction = test_fraction
        self.hold_unseen = tuple(hold_unseen)
        self.templates_by_prefix = dict(TEMPLATES_BY_PREFIX if templates_by_prefix is None else templates_by_prefix)

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return "jittor"

    @cached_property
    def train_list(self) -> ImagePools:
        """Every image of train.txt as one pool, and the names of the classes; read once, for all draws."""
        return pools_of(self.root, {"train": read_image_list(self.root / "train.txt", self.root)}, self._class_names())

    def load_images(self) -> ImagePools:
        """Read classes and training images; hold out the test part by `split_seed`."""
        whole = self.train_list
        rows = self._pool_rows()
        empty = [pool for pool, places in rows.items() if not len(places)]
        if empty:
            raise UserError(f"data.root={self.root}: the part {empty[0]!r} has no images")
        files = whole.files["train"]
        labels = {pool: whole.labels["train"][places] for pool, places in rows.items()}
        seen = torch.zeros(len(whole.class_names), dtype=torch.bool)
        seen[labels["train"]] = True
        return replace(
            whole,
            files={pool: tuple(files[row] for row in places.tolist()) for pool, places in rows.items()},
            labels=labels,
            seen_classes=None if bool(seen.all()) else seen,
            listed=self._listed(rows),
        )

    def _class_names(self) -> list[str]:
        both = self.root / "classes_b.txt"
        return read_classes(both if both.is_file() else self.root / "classes.txt")

    def _pool_rows(self) -> dict[str, Tensor]:
        """Divide the rows of train.txt into pools: test, and train; with a list also val, what it leaves over."""
        held_back = self._held_back()[self.train_list.labels["train"]]
        seen, unseen = ((~held_back).nonzero()[:, 0], held_back.nonzero()[:, 0])
        if self.support_list is None:
            rest, test = self._held_out(seen)
            return {"train": rest, "test": torch.cat([test, unseen])}
        chosen, others = self._chosen(seen, self.support_list)
        rest, test = self._held_out(others)
        return {"train": chosen, "val": rest, "test": torch.cat([test, unseen])}

    def _held_back(self) -> Tensor:
        """Mark the classes of `hold_unseen`: bool (C,)."""
        names = self.train_list.class_names
        unknown = [prefix for prefix in self.hold_unseen if not any(name.startswith(prefix) for name in names)]
        if unknown:
            raise UserError(f"data.hold_unseen names the prefix {unknown[0]!r}, which no class has")
        return torch.tensor([name.startswith(self.hold_unseen) for name in names])

    def _chosen(self, rows: Tensor, support_list: Path) -> tuple[Tensor, Tensor]:
        """Return the rows of the images of a list, in its order, and the rows of all other images."""
        items = self._items
        row_of = {items[row]: row for row in rows.tolist()}
        chosen = read_image_list(support_list, self.root)
        taken = set(chosen)
        missing = taken - row_of.keys()
        if missing:
            raise UserError(f"data.support_list={support_list}: {len(missing)} images are not in train.txt")
        others = [row for row in rows.tolist() if items[row] not in taken]
        return torch.tensor([row_of[item] for item in chosen]), torch.tensor(others, dtype=torch.int64)

    @property
    def _items(self) -> list[Item]:
        whole = self.train_list
        return list(zip(whole.files["train"], whole.labels["train"].tolist(), strict=True))

    def _held_out(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.train_list.labels["train"][rows]
        kept, held = stratified_hold_out(labels, self.test_fraction, self.split_seed, Stream.SPLIT)
        return rows[kept], rows[held]

    def _listed(self, rows: Mapping[str, Tensor]) -> ListedImages:
        """Return the list that a seed draws pools from: train.txt whole, or what `support_list` leaves of it."""
        files = self.train_list.files["train"]
        if self.support_list is None:
            return ListedImages("train", files, rows)
        drawn = {pool: places for pool, places in rows.items() if pool != "train"}
        left = torch.cat(list(drawn.values())).sort().values
        places = {pool: torch.searchsorted(left, its_rows) for pool, its_rows in drawn.items()}
        return ListedImages("rest", tuple(files[row] for row in left.tolist()), places)

    def class_words(self) -> Sequence[str]:
        """Return the class names without their prefixes."""
        return [name[len(prefix) :] for name, prefix in zip(self.images.class_names, self._prefixes, strict=True)]

    def sentences(self, names: Sequence[str]) -> list[list[str]]:
        """Return the sentences about each class, by its readable name: the sentence of its prefix."""
        if self.templates != "dataset":
            return super().sentences(names)
        templates = [(self.templates_by_prefix.get(prefix, SINGLE[0]),) for prefix in self._prefixes]
        return [prompts([name], template)[0] for name, template in zip(names, templates, strict=True)]

    @property
    def _prefixes(self) -> list[str]:
        return [prefix_of(name, tuple(self.templates_by_prefix)) for name in self.images.class_names]

    def test_folder(self, folder: TestFolder) -> list[Path]:
        """List the images of a test folder by their numbers.

        Raises:
            UserError: the folder is missing or empty.
        """
        files = [file for file in (self.root / folder).glob("*.*") if not file.name.startswith(".")]
        if not files:
            raise UserError(f"{self.root / folder} has no images")
        return sorted(files, key=lambda file: ([int(digits) for digits in re.findall(r"\d+", file.stem)], file.name))

    def test_folder_features(self, folder: TestFolder) -> tuple[list[str], Tensor]:
        """Encode a test folder: file names as the result file wants them, and features float32 (N, D)."""
        files = self.test_folder(folder)
        return [file.name for file in files], self.features_of(folder, files)

    def group(self, prefix: str) -> Tensor:
        """Mark the classes of a prefix: bool (C,)."""
        return torch.tensor([name.startswith(prefix) for name in self.images.class_names])
