"""mode=submit run=DIR: the three files of an iBioHash submission from a trained run, written and validated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from launch.paths import quote_paths, relocate
from launch.problems import as_text
from launch.run_stamp import run_stamp
from launch.stored import stored_config
from modes import build
from modes.binding import locate
from modes.image_codes import TrainedRun, encode_once, encode_unlabelled, open_trained
from modes.life import Settings, live
from modes.recipe import Recipe, codes_of, rows_of
from modes.test import OUTPUTS
from modes.train import quieten_lightning
from records.atomic_file import replace_atomically, write_text
from records.console import console, tell
from records.environment import is_first_process
from records.errors import UserError
from records.notices import RunWarning
from records.result import RunRecord
from records.run_directory import last_stage, open_run
from retrieval.average_precision import average_precision
from retrieval.counting import count_distances
from retrieval.encodings import Encodings
from retrieval.submission import (
    BITS,
    LISTED,
    code_file,
    problems_of,
    ranking,
    ranking_file,
    with_silent_queries,
)

QUERY_FILE, GALLERY_FILE, RANKING_FILE = "submit_query.csv", "submit_gallery.csv", "submit.csv"
SHOWN = 10


def run(config: DictConfig, overrides: list[str]) -> int:
    """Write a submission of the run that `config.run` names; return the exit code."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    folder = Path(settings["run"]) / "submissions" / run_stamp(overrides).replace("/", "_")
    moved = {
        name: relocate(node, settings["paths"]["run_dir"], str(folder))
        for name, node in settings.items()
        if name in OUTPUTS
    }
    again = ["mode=submit", *(override for override in overrides if override != "mode=submit")]
    kept = "What is encoded is kept, but for the last block; this goes on from there"
    return live({**settings, **moved}, overrides, submit, again, kept)


def submit(settings: Settings, record: RunRecord) -> None:
    """Encode, judge on the held-out images, write the files, validate them, and complete the record."""
    build.check(settings)
    quieten_lightning()
    recipe = Recipe.from_config(settings["recipe"])
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    if not hasattr(locate(settings["data"]["_target_"]), "unlabelled_images"):
        raise UserError(
            f"data={settings['data']['name']} has no query and gallery without labels; "
            "a submission is made of data=ibiohash"
        )
    runs = [open_trained(settings)]
    data = runs[0].data
    runs += [open_trained(_settings_of(other, settings)) for other in recipe.fuse]
    _warn_of_other_parts(runs)
    record.describe(
        checkpoint_used=runs[0].checkpoint.stem,
        data_sizes=dict(data.sizes),
        num_classes=data.num_classes,
        fingerprint=data.fingerprint,
    )
    folder = Path(settings["paths"]["run_dir"])
    training = _training_rows(runs, recipe, settings["seed"])
    score = _judge(runs, training, recipe, settings["seed"])
    with record.measure("testing"):
        parts = [encode_unlabelled(one, data, recipe.views) for one in runs]
    query, gallery = ([part[name] for part in parts] for name in ("query", "gallery"))
    if is_first_process():
        codes = codes_of(rows_of(query, recipe), rows_of(gallery, recipe), training, BITS, recipe, settings["seed"])
        write_submission(folder, query[0], gallery[0], *codes)
        write_text(folder / "identity.json", json.dumps(_identity(runs), indent=2) + "\n")
    record.finish({f"test/map@{LISTED}": score})
    if is_first_process():
        _show(folder, query[0], gallery[0], score)


def write_submission(
    folder: Path, query: Encodings, gallery: Encodings, query_codes: np.ndarray, gallery_codes: np.ndarray
) -> None:
    """Write the three files, read them again as they will be sent, and keep the codes packed beside them.

    A query that cannot be read has the code of zeros, so that its line is not missing; a gallery image that cannot be
    read is left out, because no query could want it.

    Raises:
        UserError: names cannot be written in these files, or a file is not valid.
    """
    names, codes = with_silent_queries(query.names, query_codes, query.unreadable)
    try:
        positions = ranking(codes, gallery_codes)
        files = {
            QUERY_FILE: code_file(names, codes),
            GALLERY_FILE: code_file(gallery.names, gallery_codes),
            RANKING_FILE: ranking_file(names, gallery.names, positions),
        }
    except ValueError as error:
        raise UserError(f"no submission can be written: {error}") from error
    for name, content in files.items():
        with replace_atomically(folder / name) as file:
            file.write(content)
    for part, (ids, packed) in {"query": (names, codes), "gallery": (gallery.names, gallery_codes)}.items():
        with replace_atomically(folder / f"{part}_codes.npz") as file:
            np.savez(file, names=np.array(ids), codes=packed, bits=np.array(BITS))
    validate(folder, names, gallery.names)


def validate(folder: Path, query_names: Sequence[str], gallery_names: Sequence[str]) -> None:
    """Read the three files of a folder again.

    Raises:
        UserError: with everything that is wrong.
    """
    contents = [(folder / name).read_bytes() for name in (QUERY_FILE, GALLERY_FILE, RANKING_FILE)]
    problems = problems_of(contents[0], contents[1], contents[2], query_names, gallery_names)
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("\n  ".join([f"{folder} holds no valid submission:", *problems[:SHOWN], *more]))


def _settings_of(other: str, settings: Settings) -> Settings:
    """Return the settings of a further run, on the images and the devices of the first one."""
    directory = open_run(last_stage(Path(other).expanduser()))
    root = quote_paths([f"data.root={settings['data']['root']}"], multirun=False)
    config, problems = stored_config(directory, ("mode=submit", f"checkpoint={settings['checkpoint']}", *root))
    if config is None:
        raise UserError(f"recipe.fuse: {other}\n{as_text(problems)}")
    own = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    trainer = {**settings["trainer"], "precision": own["trainer"]["precision"]}
    return {**own, "trainer": trainer, "callbacks": settings["callbacks"]}


def _warn_of_other_parts(runs: Sequence[TrainedRun]) -> None:
    """Say which further runs may have been trained on what the score is measured on."""
    for other in runs[1:]:
        if other.data.fingerprint != runs[0].data.fingerprint:
            warnings.warn(
                f"recipe.fuse: {other.settings['run']} was trained on other parts of the data than the first run, so "
                "the score on what that one holds out may be too good; train with the same data.split_seed and shares",
                RunWarning,
                stacklevel=2,
            )


def _training_rows(runs: Sequence[TrainedRun], recipe: Recipe, seed: int) -> np.ndarray | None:
    """Return the rows of training images that ITQ is fitted on, None without ITQ."""
    if not recipe.itq:
        return None
    data = runs[0].data
    places = data.positions("train").numpy()
    drawn = np.sort(np.random.default_rng(seed).permutation(places)[: recipe.itq_images])
    return rows_of([_labelled(one, data, drawn, "train", recipe) for one in runs], recipe)


def _labelled(one: TrainedRun, data: Any, places: np.ndarray, what: str, recipe: Recipe) -> Encodings:
    names = [data.listing.names[place] for place in places.tolist()]
    return encode_once(one, data.image_folder, names, what, recipe.views)


def _judge(runs: Sequence[TrainedRun], training: np.ndarray | None, recipe: Recipe, seed: int) -> float:
    """Return the mean average precision at 20 of this very recipe on the held-out images, ties at their expectation."""
    data = runs[0].data
    number = dict(zip(data.listing.names, data.data.source.labels.tolist(), strict=True))
    rows, labels = [], []
    for split in ("query", "database"):
        places = data.positions(split).numpy()
        encodings = [_labelled(one, data, places, f"held-out-{split}", recipe) for one in runs]
        rows.append(rows_of(encodings, recipe))
        labels.append(np.array([number[name] for name in encodings[0].names], dtype=np.int64))
    query, database = codes_of(rows[0], rows[1], training, BITS, recipe, seed)
    counts = count_distances(query, database, BITS, labels[0], labels[1])
    return float(average_precision(counts, k=LISTED).mean())


def _identity(runs: Sequence[TrainedRun]) -> list[dict[str, str]]:
    """Say which weights a submission is made by."""
    return [
        {"run": str(one.settings["run"]), "checkpoint": one.checkpoint.name, "sha256": one.fingerprint} for one in runs
    ]


def _show(folder: Path, query: Encodings, gallery: Encodings, score: float) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("held-out images", f"mAP@{LISTED} {score:.4f} (this recipe, ties at their expectation)")
    table.add_row("queries", f"{len(query) + len(query.unreadable):,}, {len(query.unreadable):,} of them unreadable")
    table.add_row("gallery", f"{len(gallery):,}, {len(gallery.unreadable):,} more left out as unreadable")
    for name in (QUERY_FILE, GALLERY_FILE, RANKING_FILE):
        table.add_row(name, f"{(folder / name).stat().st_size:,} bytes, valid")
    console().print(table)
    tell(f"The submission is in {folder}")
