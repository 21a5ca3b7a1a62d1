"""Image files with fixed parts for few-shot recognition: CoOp's eleven data sets, class folders, CSV tables.

CoOp's folders, below one root (its DATASETS.md says how to get them)::

    caltech-101/     101_ObjectCategories/   split_zhou_Caltech101.json
    oxford_pets/     images/                 split_zhou_OxfordPets.json
    stanford_cars/                           split_zhou_StanfordCars.json
    oxford_flowers/  jpg/                    split_zhou_OxfordFlowers.json
    food-101/        images/                 split_zhou_Food101.json
    sun397/          SUN397/                 split_zhou_SUN397.json
    dtd/             images/                 split_zhou_DescribableTextures.json
    eurosat/         2750/                   split_zhou_EuroSAT.json
    ucf101/          UCF-101-midframes/      split_zhou_UCF101.json
    fgvc_aircraft/   images/                 variants.txt, images_variant_{train,val,test}.txt
    imagenet/        images/{train,val}/     classnames.txt

Source: Zhou et al., "Learning to prompt for vision-language models", IJCV 2022, and its repository KaiyangZhou/CoOp.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.encoded.encoded_images import EncodedFewShot, ImagePools
from datamodules.files.class_folders import part_folders
from datamodules.files.table_files import Columns, read_table
from records.errors import UserError
from records.notices import RunWarning

Item = tuple[Path, int]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class JsonLayout:
    """Where a data set of CoOp lies: its folder, the images in it, the split file, and its published test size."""

    folder: str
    images: str
    file: str
    test_size: int


JSON_LAYOUTS: Mapping[str, JsonLayout] = {
    "caltech101": JsonLayout("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", 2465),
    "oxford_pets": JsonLayout("oxford_pets", "images", "split_zhou_OxfordPets.json", 3669),
    "stanford_cars": JsonLayout("stanford_cars", "", "split_zhou_StanfordCars.json", 8041),
    "oxford_flowers": JsonLayout("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", 2463),
    "food101": JsonLayout("food-101", "images", "split_zhou_Food101.json", 30300),
    "sun397": JsonLayout("sun397", "SUN397", "split_zhou_SUN397.json", 19850),
    "dtd": JsonLayout("dtd", "images", "split_zhou_DescribableTextures.json", 1692),
    "eurosat": JsonLayout("eurosat", "2750", "split_zhou_EuroSAT.json", 8100),
    "ucf101": JsonLayout("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", 3783),
}
AIRCRAFT_TEST_SIZE = 3333
IMAGENET_TEST_SIZE = 50000
# Parts as folders and tables name them, to the pools that are drawn from.
POOL_OF_PART = {"train": "train", "validation": "val", "test": "test"}
Dataset = Literal[
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101", "json", "folder", "csv",
]  # fmt: skip


def pools_of(root: Path, parts: Mapping[str, Sequence[Item]], class_names: Sequence[str]) -> ImagePools:
    """Put items (file, label) of parts into pools, and check them.

    Raises:
        UserError: a part is empty, a label has no class, or files are missing; with their number.
    """
    for part, items in parts.items():
        if not items:
            raise UserError(f"data.root={root}: the part {part!r} has no images")
        outside = [label for _, label in items if not 0 <= label < len(class_names)]
        if outside:
            raise UserError(
                f"data.root={root}: the label {outside[0]} of {part!r} is none of {len(class_names)} classes"
            )
        missing = [file for file, _ in items if not file.is_file()]
        if missing:
            raise UserError(
                f"data.root={root}: {len(missing)} of {len(items)} images of {part!r} are not there, the first is "
                f"{missing[0]}"
            )
    return ImagePools(
        root,
        {part: tuple(file for file, _ in items) for part, items in parts.items()},
        {part: torch.tensor([label for _, label in items], dtype=torch.int64) for part, items in parts.items()},
        tuple(class_names),
    )


def read_coop_json(file: Path, image_folder: Path) -> ImagePools:
    """Read a split file of CoOp: lists of [path, label, class name] under train, val and test.

    In fingerprints the images are named from the folder of the split file where all lie below it, else from their own.

    Raises:
        UserError: it is missing or of another form, or a class has two names.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = {
            part: [(str(p), int(y), str(name)) for p, y, name in content[part]] for part in ("train", "val", "test")
        }
    except OSError as error:
        raise UserError(f"the split file {file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no split file of CoOp, which holds lists of [path, label, class name] under train, val and "
            f"test ({type(error).__name__}: {error})"
        ) from error
    names = _names({(label, name) for part in rows.values() for _, label, name in part}, file)
    items = {part: [(image_folder / path, label) for path, label, _ in listed] for part, listed in rows.items()}
    paths = [path for listed in items.values() for path, _ in listed]
    below_file = all(path.is_relative_to(file.parent) for path in paths)
    return pools_of(file.parent if below_file else image_folder, items, names)


def _names(pairs: set[tuple[int, str]], file: Path) -> list[str]:
    ordered = sorted(pairs)
    if [label for label, _ in ordered] != list(range(len(ordered))):
        raise UserError(f"{file}: labels must run from 0 without gaps, with one class name each")
    return [name for _, name in ordered]


def read_aircraft(root: Path) -> ImagePools:
    """Read FGVC-Aircraft by its own lists of variants."""
    folder = root / "fgvc_aircraft"
    names = _lines(folder / "variants.txt")
    number = {name: label for label, name in enumerate(names)}

    def items(part: str) -> list[Item]:
        rows = [line.split(" ", 1) for line in _lines(folder / f"images_variant_{part}.txt")]
        return [(folder / "images" / f"{image}.jpg", number[name.strip()]) for image, name in rows]

    return pools_of(folder, {part: items(part) for part in ("train", "val", "test")}, names)


def read_imagenet(root: Path) -> ImagePools:
    """Read ImageNet by class folders; its validation part is the test, and no other part validates."""
    folder = root / "imagenet"
    rows = [line.split(" ", 1) for line in _lines(folder / "classnames.txt")]

    def items(part: str) -> list[Item]:
        return [
            (file, label) for label, (wnid, _) in enumerate(rows) for file in _images(folder / "images" / part / wnid)
        ]

    return pools_of(folder, {"train": items("train"), "test": items("val")}, [name.strip() for _, name in rows])


def read_class_folders(root: Path) -> ImagePools:
    """Read root/train/CLASS/..., root/test/CLASS/... and, where it is there, root/val/CLASS/...

    Raises:
        UserError: there is no train or no test folder.
    """
    folders = {POOL_OF_PART[part]: top for top, part in part_folders(root).items() if part in POOL_OF_PART}
    if not {"train", "test"} <= set(folders):
        raise UserError(f"data.root={root}: data.dataset=folder takes root/train/CLASS/IMAGE and root/test/CLASS/IMAGE")
    classes = sorted({child.name for top in folders.values() for child in top.iterdir() if child.is_dir()})
    items = {
        part: [(file, label) for label, name in enumerate(classes) for file in _images(top / name)]
        for part, top in folders.items()
    }
    return pools_of(root, items, classes)


def read_csv(root: Path, file: Path) -> ImagePools:
    """Read a table with the columns path, label and split (train, val or test); paths start from root."""
    listing = read_table(file, Columns("path", "label", part="split"), ",", None)
    parts = {pool: listing.parts[part].tolist() for part, pool in POOL_OF_PART.items() if part in listing.parts}
    if not {"train", "test"} <= set(parts):
        raise UserError(f"data.split_list={file}: the column split must name train and test images")
    items = {
        part: [(root / listing.names[row], int(listing.labels[row])) for row in rows] for part, rows in parts.items()
    }
    return pools_of(root, items, listing.class_names)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _images(folder: Path) -> list[Path]:
    """List the images of a folder, by name; hidden files and other suffixes are no images."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(file for file in files if not file.name.startswith("."))


def warn_of_size(pools: ImagePools, dataset: str, expected: int) -> None:
    """Say where a test part is not of the published size: figures would not be comparable."""
    found = len(pools.files["test"])
    if found != expected:
        warnings.warn(
            f"data.dataset={dataset}: {found} test images, and the published test part has {expected}; figures are not "
            "comparable with published ones",
            RunWarning,
            stacklevel=3,
        )


class FewShotImages(EncodedFewShot):
    """CoOp's eleven data sets, or your own images with fixed parts, as few-shot features of an encoder.

    Args:
        dataset: one of the eleven; "json" for a file of CoOp's form, "csv" for a table with the columns path, label
            and split, "folder" for class folders below train, test and perhaps val.
        root: the folder above CoOp's folders, or that of your images.
        split_list: file of "json" and "csv".
        shared: see `EncodedFewShot`.

    Raises:
        UserError: the choice is unknown, or files are missing.
    """

    def __init__(
        self, *, root: str | Path, dataset: Dataset, split_list: str | Path | None = None, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.root = Path(root).expanduser()
        self.dataset = dataset
        self.split_list = None if split_list is None else Path(split_list).expanduser()
        if dataset in ("json", "csv") and split_list is None:
            raise UserError(f"data.dataset={dataset} reads the parts from a file: set data.split_list=FILE")
        if dataset not in self._readers:
            raise UserError(f"data.dataset is {dataset!r}; the choices are {', '.join(self._readers)}")

    @property
    def dataset_name(self) -> str:
        """Name of the data set; of your own, that of its folder."""
        return self.root.name if self.dataset in ("json", "csv", "folder") else self.dataset

    @property
    def _readers(self) -> dict[str, Callable[[], ImagePools]]:
        listed = self.split_list or Path()
        return {
            "imagenet": partial(read_imagenet, self.root),
            **{name: partial(self._read_layout, layout) for name, layout in JSON_LAYOUTS.items()},
            "fgvc_aircraft": partial(read_aircraft, self.root),
            "json": partial(read_coop_json, listed, self.root),
            "csv": partial(read_csv, self.root, listed),
            "folder": partial(read_class_folders, self.root),
        }

    def _read_layout(self, layout: JsonLayout) -> ImagePools:
        folder = self.root / layout.folder
        return read_coop_json(folder / layout.file, folder / layout.images)

    def load_images(self) -> ImagePools:
        """Read which image has which label."""
        pools = self._readers[self.dataset]()
        sizes = {name: layout.test_size for name, layout in JSON_LAYOUTS.items()}
        sizes |= {"fgvc_aircraft": AIRCRAFT_TEST_SIZE, "imagenet": IMAGENET_TEST_SIZE}
        if self.dataset in sizes:
            warn_of_size(pools, self.dataset, sizes[self.dataset])
        return pools
