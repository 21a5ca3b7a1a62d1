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
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from datamodules.coop_splits import Item, pools_of
from datamodules.encoded.encoded_images import EncodedFewShot, ImagePools
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

    def load_images(self) -> ImagePools:
        """Read classes and training images; hold out the test part by `split_seed`."""
        names = self._class_names()
        unknown = [prefix for prefix in self.hold_unseen if not any(name.startswith(prefix) for name in names)]
        if unknown:
            raise UserError(f"data.hold_unseen names the prefix {unknown[0]!r}, which no class has")
        listed = read_image_list(self.root / "train.txt", self.root)
        unseen = [item for item in listed if names[item[1]].startswith(self.hold_unseen)] if self.hold_unseen else []
        parts = self._parts([item for item in listed if item not in set(unseen)])
        pools = pools_of(self.root, {**parts, "test": [*parts["test"], *unseen]}, names)
        seen = torch.zeros(len(names), dtype=torch.bool)
        seen[pools.labels["train"]] = True
        return replace(pools, seen_classes=None if bool(seen.all()) else seen)

    def _class_names(self) -> list[str]:
        both = self.root / "classes_b.txt"
        return read_classes(both if both.is_file() else self.root / "classes.txt")

    def _parts(self, items: list[Item]) -> dict[str, list[Item]]:
        """Divide the images of the seen classes: test, and train; with a list also val, what it leaves over."""
        if self.support_list is None:
            rest, test = self._held_out(items)
            return {"train": rest, "test": test}
        chosen = read_image_list(self.support_list, self.root)
        missing = set(chosen) - set(items)
        if missing:
            raise UserError(f"data.support_list={self.support_list}: {len(missing)} images are not in train.txt")
        rest, test = self._held_out([item for item in items if item not in set(chosen)])
        return {"train": chosen, "val": rest, "test": test}

    def _held_out(self, items: list[Item]) -> tuple[list[Item], list[Item]]:
        labels = torch.tensor([label for _, label in items], dtype=torch.int64)
        kept, held = stratified_hold_out(labels, self.test_fraction, self.split_seed, Stream.SPLIT)
        return [items[row] for row in kept.tolist()], [items[row] for row in held.tolist()]

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
