"""mode=search run=DIR image=FILE: the nearest images of a database, by an index that is built once and kept."""

from __future__ import annotations

import csv
import io
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.table import Table
from rich.text import Text

from datamodules.files.image_list import read_image_list
from datamodules.files.split_images import split_names
from datamodules.images.image_files import ImageFiles
from datamodules.images.images_to_encode import Views
from lit_modules.hashing.base import HashingModule
from modes import build
from modes.encode import CodeSource, encode_split, read_images, read_source
from modes.image_codes import TrainedRun, encode_images, model_identity, open_trained, own_folder
from modes.life import Settings, live
from modes.one_image import (
    GREY,
    Sample,
    ask,
    check_question,
    class_text,
    classes_of,
    picture_of,
    picture_of_sample,
    read_sample,
)
from modes.predict import below_run, check_one_path
from modes.train import quieten_lightning
from records.atomic_file import write_text
from records.console import console, say, tell
from records.environment import is_first_process
from records.errors import UserError
from records.file_lock import in_turn
from records.image_figures import neighbours_picture
from records.notices import RunWarning
from records.result import RunRecord
from records.run_directory import RunDirectory
from retrieval.codes import pack
from retrieval.encodings import Encodings, ForeignEncodingsError, is_complete, read_encodings
from retrieval.index import CodeIndex, UnfitIndexError, differences, has_index, open_index

OWN = "own"
INDEX_FOLDER = "index"
LIST_SUFFIXES = (".txt", ".csv", ".tsv")
SQUARE = 160
SHOWN = 5
NOT_OF_THE_CODES = ("keep",)
EXACT_TO_A_BIT = ("precision",)
"""What may move a value over zero, and a code by a bit, and is no reason to refuse."""


@dataclass(frozen=True)
class Found:
    """One neighbour: its name, Hamming distance, classes where they are known, and a square picture (3, S, S)."""

    name: str
    distance: int
    classes: tuple[int, ...] | None
    picture: np.ndarray


def run(config: DictConfig, overrides: list[str]) -> int:
    """Search with the run that `config.run` names; return the exit code."""
    kept = "The index and the images encoded so far are kept; this goes on from there"
    return live(below_run(config, "searches"), overrides, search, overrides, kept)


def search(settings: Settings, record: RunRecord) -> None:
    """Open or build the index, change it where that is asked for, find the nearest images, and complete the record."""
    check_one_path(settings, "image", "add")
    asks = settings["image"] is not None or settings["index"] is not None
    if asks or (settings["add"] is None and settings["remove"] is None):
        check_question(settings)
    if settings["k"] < 1:
        raise UserError(f"k={settings['k']}; it must be at least 1")
    build.check(settings)
    quieten_lightning()
    folder = database_folder(settings)
    trained = _open(settings, folder)
    record.describe(checkpoint_used=trained.checkpoint.stem)
    if settings["database"] is None and not has_index(folder / INDEX_FOLDER) and not is_complete(folder):
        encode_split(trained, None, folder)
    index = prepared_index(trained, folder)
    if is_first_process() and asks:
        _answer(trained, index, folder)
    record.finish({})


def database_folder(settings: Settings) -> Path:
    """Return the folder of codes that `database` names.

    Raises:
        UserError: there is none.
    """
    codes = RunDirectory(settings["run"]).codes_folder
    if settings["database"] is None:
        return codes / OWN
    given = Path(str(settings["database"])).expanduser()
    for folder in (codes / given, given.absolute()):
        if (folder / "encodings.json").is_file() or has_index(folder / INDEX_FOLDER):
            return folder
    known = sorted(path.parent.name for path in codes.glob("*/encodings.json"))
    raise UserError(
        f"database={given}: there are no codes of that name in {codes}, which holds {', '.join(known) or 'none'}. "
        f"Make them: python run.py mode=encode run={settings['run']} images=FOLDER name={given.name}"
    )


def _open(settings: Settings, folder: Path) -> TrainedRun:
    source = read_source(folder)
    is_own = settings["database"] is None or (source is not None and source.split is not None)
    trained = open_trained(settings, needs_data=is_own or settings["index"] is not None)
    if not isinstance(trained.task, HashingModule):
        raise UserError(f"task {settings['task']['name']} has no hash layer: only hashing runs make codes to search by")
    return trained


def prepared_index(trained: TrainedRun, folder: Path) -> CodeIndex:
    """Open the index of a folder of codes, or build it, and carry out `faiss`, `remove` and `add`.

    Raises:
        UserError: the codes are not complete, or of another model; or the index is damaged.
    """
    place, settings = folder / INDEX_FOLDER, trained.settings
    # further ranks would wait for the first one, which waits for them to encode
    with in_turn(folder / ".index.lock") if is_first_process() else nullcontext():
        is_new = not has_index(place)
        index = _built(trained, folder) if is_new else _opened(trained, place)
        changed = _removed(_resettled(index, settings["faiss"]), settings, folder)
        made: Path | None = None
        if settings["add"] is not None:
            changed, made = _added(changed, trained, folder)
        if (is_new or changed is not index) and is_first_process():
            changed.save(place)
            _say(f"The index of {len(changed):,} images ({changed.settings.kind}) is kept in {place}")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if made is not None and is_first_process():
            shutil.rmtree(made, ignore_errors=True)
    return changed


def _built(trained: TrainedRun, folder: Path) -> CodeIndex:
    try:
        if not is_complete(folder):
            raise UserError(f"{folder}: these images are not all encoded yet; repeat the command that encodes them")
        encodings = read_encodings(folder)
    except ForeignEncodingsError as error:
        raise UserError(f"{error}. Remove that folder, and encode the images again") from error
    again = f"remove {folder} and encode the images again"
    _refuse_stale(trained, encodings.identity, f"the codes in {folder}", again)
    return _index_of(encodings, encodings.identity)


def _index_of(encodings: Encodings, identity: Mapping[str, str]) -> CodeIndex:
    assert encodings.codes is not None
    kept = {key: value for key, value in identity.items() if key not in NOT_OF_THE_CODES}
    return CodeIndex(encodings.names, np.asarray(encodings.codes), encodings.bits, kept)


def _opened(trained: TrainedRun, place: Path) -> CodeIndex:
    again = f"remove {place}: it is built again from the codes beside it, without what was added or removed since"
    try:
        index = open_index(place)
    except UnfitIndexError as error:
        raise UserError(f"{error}. To mend it, {again}") from error
    _refuse_stale(trained, index.identity, f"the index in {place}", f"encode the images again, and {again}")
    return index


def _refuse_stale(trained: TrainedRun, identity: Mapping[str, str], what: str, mend: str) -> None:
    """Refuse what another model has made; the views are the codes' own."""
    wanted = {**model_identity(trained, Views()), "views": identity.get("views", "")}
    stored = {key: value for key, value in identity.items() if key not in NOT_OF_THE_CODES}
    other = [key for key in differences(stored, wanted) if key not in EXACT_TO_A_BIT]
    if other:
        raise UserError(
            f"{what} was made by another model: {', '.join(other)} differ from those of {trained.checkpoint}. "
            "Distances between codes of two models mean nothing. Choose the checkpoint it was made by "
            f"(checkpoint=best or last), or {mend}"
        )
    if differences(stored, wanted):
        warnings.warn(
            f"{what} was made at precision {stored.get('precision')}, and the query at {wanted['precision']}: bits of "
            "values near zero may differ",
            RunWarning,
            stacklevel=3,
        )


def _resettled(index: CodeIndex, given: Mapping[str, Any]) -> CodeIndex:
    """Return the index with the settings that are given, built anew where they ask for it."""
    wanted = {key: value for key, value in given.items() if value is not None}
    try:
        settings = replace(index.settings, **wanted)
    except (ValueError, TypeError) as error:
        raise UserError(f"faiss: {error}") from error
    return index if settings == index.settings else index.with_settings(settings)


def _removed(index: CodeIndex, settings: Settings, folder: Path) -> CodeIndex:
    if settings["remove"] is None:
        return index
    given = settings["remove"] if isinstance(settings["remove"], list) else [settings["remove"]]
    root = _root(settings, folder)
    names = [name for one in given for name in _named(index, str(one), root, settings)]
    _say(f"{len(set(names)):,} images are taken out of the index")
    try:
        return index.without(sorted(set(names)))
    except ValueError as error:
        raise UserError(f"remove={settings['remove']}: {error}") from error


def _named(index: CodeIndex, text: str, root: Path | None, settings: Settings) -> list[str]:
    """Return the names in the index that `text` stands for.

    Raises:
        UserError: it stands for none.
    """
    file = Path(text).expanduser()
    as_listed = index_name(file.absolute(), root)
    for name in (text, as_listed):
        if name in index.positions:
            return [name]
    if file.is_file() and file.suffix.lower() in LIST_SUFFIXES:
        listed = read_image_list(file, settings["image_dir"] or root, settings["path_column"], settings["delimiter"])
        return [index_name(listed.folder / name, root) for name in listed.names]
    below = [name for name in index.names if name.startswith((f"{text.rstrip('/')}/", f"{as_listed}/"))]
    if not below:
        near = get_close_matches(text, index.names[:100_000], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"remove={text}: no image of the index is called so, or lies below it{hint}")
    return below


def _added(index: CodeIndex, trained: TrainedRun, folder: Path) -> tuple[CodeIndex, Path | None]:
    """Return the index with further images, and the folder of their codes, which is of no use once that is saved."""
    settings = trained.settings
    listed = read_images(settings, settings["add"])
    root = _root(settings, folder)
    names = {index_name(listed.folder / name, root): name for name in listed.names}
    new = {known: name for known, name in names.items() if known not in index.positions}
    if len(new) < len(names) and is_first_process():
        warnings.warn(
            f"{len(names) - len(new):,} of the {len(names):,} images to add are in the index already, and stay as they "
            "are; remove=... takes them out first",
            RunWarning,
            stacklevel=2,
        )
    if not new:
        return index, None
    views = _views_of(index)
    target = own_folder(trained, "adding", [str(listed.folder / name) for name in new.values()], views)
    encodings = encode_images(
        trained, listed.folder, tuple(new.values()), target, views=views, keep=("values",), what="images to add"
    )
    assert encodings.codes is not None
    back = {name: known for known, name in new.items()}
    return index.with_added([back[name] for name in encodings.names], np.asarray(encodings.codes)), target


def _views_of(index: CodeIndex) -> Views:
    """Return the views that the images of an index are encoded with, from its identity."""
    text = index.identity["views"]
    zooms = text.removeprefix("zooms ").removesuffix(", flipped too")
    return Views("flipped too" in text, tuple(float(zoom) for zoom in zooms.split(",")))


def index_name(path: Path, root: Path | None) -> str:
    """Return what an image is called in an index: relative to its folder where it lies below, else absolute."""
    normal = Path(os.path.normpath(path))
    if root is None or root == Path("/") or not normal.is_relative_to(root):
        return str(normal)
    return normal.relative_to(root).as_posix()


def _root(settings: Settings, folder: Path) -> Path | None:
    """Return the folder that names in an index are relative to; None where nothing is known of it."""
    if settings["image_root"] is not None:
        return Path(settings["image_root"]).expanduser().absolute()
    source = read_source(folder)
    return None if source is None else source.folder


def _answer(trained: TrainedRun, index: CodeIndex, folder: Path) -> None:
    """Find the nearest images of the one that is asked for; write neighbours.csv and gallery.png, and show both."""
    settings = trained.settings
    sample = read_sample(trained, _views_of(index))
    bits = ask(trained, sample).bits
    assert bits is not None
    k = min(settings["k"], len(index))
    if k < settings["k"]:
        warnings.warn(f"k={settings['k']}: the database holds {k:,} images, all are listed", RunWarning, stacklevel=2)
    distances, positions = index.search(pack(bits[None]), k, threads=1)
    names = [index.names[place] for place in positions[0].tolist() if place >= 0]
    found = _look_up(trained, names, distances[0].tolist(), folder)
    target = Path(settings["paths"]["run_dir"])
    class_names = trained.task.labels.class_names
    write_text(target / "neighbours.csv", _csv(found, class_names))
    hits = None
    if sample.classes is not None and all(one.classes is not None for one in found):
        hits = [bool(set(sample.classes) & set(one.classes or ())) for one in found]
    picture = neighbours_picture(
        _squared(sample.picture),
        sample.name,
        np.stack([one.picture for one in found]),
        [one.distance for one in found],
        [_caption(one, class_names) for one in found],
        hits,
    )
    picture.save(target / "gallery.png")
    console(soft_wrap=True, highlight=False, markup=False).print(_table(sample, found, class_names, index))
    tell(f"{picture.description}\ngallery: {target / 'gallery.png'}\ntable: {target / 'neighbours.csv'}")


def _look_up(trained: TrainedRun, names: Sequence[str], distances: Sequence[int], folder: Path) -> list[Found]:
    """Read the pictures and, in the run's own data, the classes of the images that were found."""
    source = read_source(folder)
    own = _own_places(trained, source)
    root = _root(trained.settings, folder)
    found, lost = [], []
    for name, distance in zip(names, distances, strict=False):
        classes, picture = None, None
        if source is not None and source.split is not None and name in own:
            data = trained.data
            classes = classes_of(data.labels(source.split)[own[name]])
            if not isinstance(data.data.source, ImageFiles):
                picture = picture_of_sample(data, source.split, own[name])
        if picture is None:
            picture, problem = _picture_of_file(name, root)
            lost += [problem] if problem else []
        found.append(Found(name, distance, classes, _squared(picture)))
    if lost:
        warnings.warn(
            f"{len(lost)} of the {len(found)} pictures cannot be shown, the first: {lost[0]}. image_root=FOLDER says "
            "where the images lie now",
            RunWarning,
            stacklevel=2,
        )
    return found


def _own_places(trained: TrainedRun, source: CodeSource | None) -> dict[str, int]:
    if source is None or source.split is None or trained.data is None:
        return {}
    return {name: place for place, name in enumerate(split_names(trained.data, source.split))}


def _picture_of_file(name: str, root: Path | None) -> tuple[np.ndarray, str | None]:
    try:
        return picture_of(Path(name) if root is None else root / name), None
    except UserError as error:
        return np.full((3, SQUARE, SQUARE), GREY, dtype=np.uint8), str(error).removeprefix("image=")


def _squared(picture: np.ndarray) -> np.ndarray:
    """Put a picture (3, H, W) into the middle of a grey square, enlarged by whole pixels where it is small."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    scale = SQUARE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR
    square = Image.new("RGB", (SQUARE, SQUARE), (GREY, GREY, GREY))
    square.paste(image.resize(size, kind), ((SQUARE - size[0]) // 2, (SQUARE - size[1]) // 2))
    return np.asarray(square).transpose(2, 0, 1)


def _caption(one: Found, class_names: Sequence[str]) -> str:
    return Path(one.name).name if one.classes is None else class_text(one.classes, class_names)


def _csv(found: Sequence[Found], class_names: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    rows = [
        (rank, one.distance, one.name, "" if one.classes is None else class_text(one.classes, class_names))
        for rank, one in enumerate(found, start=1)
    ]
    csv.writer(text, lineterminator="\n").writerows([("rank", "distance", "image", "class"), *rows])
    return text.getvalue()


def _table(sample: Sample, found: Sequence[Found], class_names: Sequence[str], index: CodeIndex) -> Table:
    own = "" if sample.classes is None else f" ({class_text(sample.classes, class_names)})"
    table = Table(title=f"nearest to {sample.name}{own} among {len(index):,} images", title_justify="left")
    has_classes = any(one.classes is not None for one in found)
    for name in ("rank", "distance", "image", *(["class"] if has_classes else [])):
        table.add_column(name, justify="right" if name in ("rank", "distance") else "left")
    for rank, one in enumerate(found, start=1):
        classes = [Text(class_text(one.classes or (), class_names))] if has_classes else []
        table.add_row(str(rank), str(one.distance), Text(one.name, overflow="fold"), *classes)
    return table


def _say(text: str) -> None:
    if is_first_process():
        say(text)
