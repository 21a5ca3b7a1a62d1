"""mode=encode run=DIR images=FOLDER: the codes of any number of images, kept in RUN/codes/NAME."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from datamodules.base import ImageDataModule
from datamodules.files.image_list import ImageList, read_image_list
from datamodules.files.split_images import SplitImages, split_names
from datamodules.images.image_files import ImageFiles
from datamodules.images.images_to_encode import Views
from lit_modules.hashing.base import HashingModule
from modes import build
from modes.binding import locate
from modes.image_codes import TrainedRun, encode_images, encode_unlabelled, open_trained
from modes.life import Settings, live
from modes.predict import below_run, check_one_path
from modes.train import quieten_lightning
from records.atomic_file import replace_atomically, write_json
from records.console import console, say, tell
from records.environment import is_first_process
from records.errors import UserError
from records.result import RunRecord
from retrieval.encodings import Encodings
from retrieval.submission import code_file, with_silent_queries

SOURCE_FILE = "images.json"
PLAIN_NAME = re.compile(r"[^\w.-]+")
RESERVED = re.compile(r"(^\.|^codes\.npz$)")


@dataclass(frozen=True)
class CodeSource:
    """Where the images of a folder of codes lie, as its images.json says.

    Attributes:
        folder: what their names are relative to.
        split: the split of the run's own data that they are; None where they are others.
    """

    folder: Path
    split: str | None = None

    def __str__(self) -> str:
        """Say which images they are."""
        return f"images below {self.folder}" if self.split is None else f"the run's split {self.split}"


def run(config: DictConfig, overrides: list[str]) -> int:
    """Encode images with the run that `config.run` names; return the exit code."""
    name = code_name(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    kept = "The images encoded so far are kept, but for the last block; this goes on from there"
    return live(below_run(config, "codes", name), overrides, encode, overrides, kept)


def code_name(settings: Settings) -> str:
    """Return what the codes are called: `name`, or after the images.

    Raises:
        UserError: the name is no name of a folder.
    """
    given = settings["name"]
    check_one_path(settings, "images")
    if given is None:
        source = settings["images"]
        given = (settings["split"] or "own") if source is None else Path(source).expanduser().absolute().stem
        given = PLAIN_NAME.sub("_", given)
    name = str(given)
    if not name or PLAIN_NAME.search(name) or RESERVED.search(name):
        raise UserError(f"name={name}: take letters, digits, points, - and _ alone, not a point first, not codes.npz")
    return name


def encode(settings: Settings, record: RunRecord) -> None:
    """Encode the images that `images` names, and complete the record."""
    build.check(settings)
    quieten_lightning()
    listed = None if settings["images"] is None else read_images(settings, settings["images"])
    trained = open_trained(settings, needs_data=listed is None)
    target = Path(settings["paths"]["run_dir"])
    record.describe(checkpoint_used=trained.checkpoint.stem)
    if listed is None and settings["split"] is None and hasattr(trained.data, "unlabelled_images"):
        _refuse_for_contest(settings)
        encode_contest(trained, target)
    else:
        encodings = (
            encode_split(trained, settings["split"], target) if listed is None else encode_list(trained, listed, target)
        )
        if is_first_process():
            _write_csv(settings["csv"], encodings, target)
            _show(encodings, target, settings)
    record.finish({})


def _refuse_for_contest(settings: Settings) -> None:
    for key in ("csv", "features"):
        if settings[key]:
            raise UserError(
                f"{key}={settings[key]}: the parts without labels of a contest are answered by submit_PART.csv and "
                "packed codes alone; with images=FOLDER or split=SPLIT it is kept"
            )


def encode_contest(trained: TrainedRun, target: Path) -> None:
    """Encode the parts without labels of a contest's data, and write `submit_PART.csv` of each with its packed codes.

    Raises:
        UserError: the task has no hash layer, or a name cannot be written.
    """
    parts = encode_unlabelled(trained, trained.data, _views(trained))
    if not is_first_process():
        return
    for part, encodings in parts.items():
        if encodings.codes is None:
            raise UserError("this task has no hash layer: there are no codes to submit; images=FOLDER keeps features")
        names, codes = encodings.names, np.asarray(encodings.codes)
        if part == "query":
            names, codes = with_silent_queries(names, codes, encodings.unreadable, encodings.bits)
        try:
            content = code_file(names, codes, encodings.bits)
        except ValueError as error:
            raise UserError(f"submit_{part}.csv cannot be written: {error}") from error
        with replace_atomically(target / f"submit_{part}.csv") as file:
            file.write(content)
        with replace_atomically(target / f"{part}_codes.npz") as file:
            np.savez(file, names=np.array(names), codes=codes, bits=np.array(encodings.bits))
        counts = f"{len(encodings):,} images, {len(encodings.unreadable):,} unreadable"
        tell(f"{part}: {counts}: {target / f'submit_{part}.csv'}")


def read_images(settings: Settings, source: str) -> ImageList:
    """Read which images `images`, or another key, stands for.

    Raises:
        UserError: see `read_image_list`.
    """
    return read_image_list(source, settings["image_dir"], settings["path_column"], settings["delimiter"])


def encode_list(trained: TrainedRun, listed: ImageList, target: Path) -> Encodings:
    """Encode image files into a folder of codes."""
    keep = _kept(trained)
    note_source(target, CodeSource(listed.folder))
    return encode_images(trained, listed.folder, listed.names, target, views=_views(trained), keep=keep)


def encode_split(trained: TrainedRun, split: str | None, target: Path) -> Encodings:
    """Encode a split of the run's own data into a folder of codes; None takes the last one of its test."""
    data: Any = trained.data
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"data={trained.settings['data']['name']} hold features, and no images to encode: images=FOLDER"
        )
    split = split or data.test_splits[-1]
    if split not in data.sizes:
        raise UserError(f"split={split}: the run's data have the splits {', '.join(data.sizes)}")
    keep, views, names = _kept(trained), _views(trained), split_names(data, split)
    is_files = isinstance(data.data.source, ImageFiles)
    if not is_files and views.number > 1:
        raise UserError("flip and zooms need image files: the run's own data are arrays of pixels")
    note_source(target, CodeSource(Path("/") if is_files else Path(), split))
    source = None if is_files else SplitImages(data, split)
    what = f"images of the split {split}"
    return encode_images(trained, Path("/"), names, target, views=views, keep=keep, what=what, source=source)


def _kept(trained: TrainedRun) -> tuple[str, ...]:
    """Return which arrays are kept: features where they are asked for, or where there is nothing else."""
    target: Any = locate(trained.settings["data"]["_target_"])
    if not issubclass(target, ImageDataModule):
        raise UserError(
            f"data={trained.settings['data']['name']} hand out features, which this run's task judges: there is no "
            "code or feature of its own to make. mode=encode takes hashing and long-tail runs"
        )
    if not isinstance(trained.task, HashingModule):
        return ("features",)
    return ("values", "features") if trained.settings.get("features") else ("values",)


def _views(trained: TrainedRun) -> Views:
    settings = trained.settings
    zooms = settings.get("zooms") or [1.0]
    return Views(bool(settings.get("flip")), tuple(float(zoom) for zoom in zooms))


def note_source(target: Path, source: CodeSource) -> None:
    """Write where the images of a folder of codes lie.

    Raises:
        UserError: the folder holds codes of other images.
    """
    known = read_source(target)
    if known not in (None, source):
        raise UserError(
            f"name={target.name}: {target} holds codes of {known}, and asked for are {source}; "
            "give another name=NAME, or remove that folder"
        )
    if is_first_process() and known is None:
        write_json(target / SOURCE_FILE, {"folder": str(source.folder), "split": source.split})


def read_source(target: Path) -> CodeSource | None:
    """Read where the images of a folder of codes lie; None where nothing was noted.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content: Mapping[str, Any] = json.loads((target / SOURCE_FILE).read_text(encoding="utf-8"))
        return CodeSource(Path(content["folder"]), content["split"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{target / SOURCE_FILE} is damaged ({error}); remove it") from error


def _write_csv(name: str | None, encodings: Encodings, target: Path) -> None:
    if name is None:
        return
    if Path(name).name != name:
        raise UserError(f"csv={name}: give the name of a file alone; it is written into {target}")
    if encodings.codes is None:
        raise UserError(f"csv={name}: this task has no hash layer, so there are no codes to write")
    try:
        content = code_file(encodings.names, encodings.codes, encodings.bits)
    except ValueError as error:
        raise UserError(f"csv={name}: {error}. The codes themselves are whole, in codes.npy and names.txt") from error
    with replace_atomically(target / name) as file:
        file.write(content)


def _show(encodings: Encodings, target: Path, settings: Settings) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("images", f"{len(encodings):,}")
    table.add_row("unreadable", f"{len(encodings.unreadable):,}, listed in unreadable.csv")
    if encodings.codes is None:
        table.add_row("features.npy", "the task has no hash layer, so there are no codes")
    else:
        table.add_row("codes.npy", f"{encodings.bits} bits, {encodings.codes.nbytes:,} bytes; names.txt names the rows")
    console(soft_wrap=True, highlight=False, markup=False).print(table)
    tell(f"codes: {target}")
    if encodings.codes is not None:
        say(f"search: python run.py mode=search run={settings['run']} database={target.name} image=FILE")
