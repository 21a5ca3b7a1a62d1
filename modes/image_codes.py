"""A trained run put to work on lists of images: one call encodes them, on the trainer's devices, and can be resumed."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import Dataset

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.encoding_writer import EncodingWriter
from datamodules.images.images_to_encode import ImagesToEncode, ImageViews, Views
from lit_modules.base import TaskModule
from lit_modules.encoder import Encoder
from modes import build, encoders
from modes.encoding import makes_features
from modes.life import Settings
from modes.test import checkpoint_of
from modes.train import interruptible
from records.console import say
from records.environment import is_first_process
from records.errors import UserError
from records.labels_file import read_labels
from records.notices import RunWarning
from records.run_directory import RunDirectory
from retrieval.encodings import (
    ARRAYS,
    BLOCK_SIZE,
    EncodingPlan,
    Encodings,
    ForeignEncodingsError,
    begin,
    finish,
    missing_blocks,
    read_encodings,
)

SHOWN = 5
HASHED_AT_ONCE = 1 << 20
SOURCES_OF_WEIGHTS = ("pretrained", "weights_file", "suggested")


@dataclass(frozen=True)
class TrainedRun:
    """A run with the weights of its checkpoint.

    Attributes:
        settings: its configuration, resolved, as plain containers.
        checkpoint: the file that the weights are of.
        fingerprint: sha256 of that file.
        task: in evaluation mode.
        data: its datamodule, set up; None where it was opened without.
    """

    settings: Settings
    checkpoint: Path
    fingerprint: str
    task: TaskModule
    data: Any


def open_trained(settings: Settings, needs_data: bool = True) -> TrainedRun:
    """Build the task of a stored configuration, and load the checkpoint that `checkpoint` chooses.

    Args:
        settings: of a later action on the run.
        needs_data: read the run's own data; without, the classes that the run has noted do, where it has.

    Raises:
        UserError: the checkpoint is missing, damaged or of another configuration.
    """
    run = RunDirectory(settings["run"])
    checkpoint = checkpoint_of(run, settings["checkpoint"])
    # data that encode images do so before the checkpoint is loaded: by the network that the run began with
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    labels = None if needs_data or "encoders" in settings["task"] else read_labels(run)
    # the checkpoint holds every weight, so nothing needs to be fetched, unless data are made by the backbone first
    weights = {} if labels is None and makes_features(settings) else {"pretrained": False, "weights_file": None}
    backbone = build.build_backbone({**settings, "model": {**settings["model"], **weights}})
    data, seen_through = (None, {}) if labels is not None else encoders.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data or labels, **encoders.supplied(seen_through))
    load_weights(task, checkpoint)
    return TrainedRun(settings, checkpoint, file_fingerprint(checkpoint), task, data)


def load_weights(task: TaskModule, checkpoint: Path) -> None:
    """Load a checkpoint into its task, and put the task into evaluation mode.

    Raises:
        UserError: the file is missing or damaged, or of another configuration.
    """
    content = AtomicCheckpointIO().load_checkpoint(checkpoint)
    task.on_load_checkpoint(content)
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint} does not fit this configuration: leave out the task.* and model.* values that differ from "
            f"the run's config.yaml. {' '.join(str(error).split())}"
        ) from error
    task.eval()


def file_fingerprint(file: Path) -> str:
    """Return the sha256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(HASHED_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def model_identity(trained: TrainedRun, views: Views) -> dict[str, str]:
    """Return what encodings depend on beside the images: weights, task and model, views, sizes, precision."""
    parts = {
        "task": trained.settings["task"],
        "model": {key: value for key, value in trained.settings["model"].items() if key not in SOURCES_OF_WEIGHTS},
    }
    return {
        "weights": trained.fingerprint,
        "config": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
        "views": str(views),
        "image_size": str(trained.task.backbone.image_size),
        "resize": str(build.centre_cut(trained.settings, trained.task.backbone.image_size)),
        "precision": str(trained.settings["trainer"]["precision"]),
    }


def encode_images(
    trained: TrainedRun,
    image_folder: Path,
    names: Sequence[str],
    target: Path,
    *,
    views: Views | None = None,
    keep: tuple[str, ...] = ARRAYS,
    what: str = "images",
    block_size: int = BLOCK_SIZE,
    source: Dataset[dict[str, Any]] | None = None,
) -> Encodings:
    """Encode images into the folder `target`, or go on where an interrupted call stopped.

    Memory holds one block of images. On several ranks each image is encoded by one of them.

    Args:
        trained: the run.
        image_folder: what the names are relative to.
        names: N of them, each once.
        target: folder of the encodings.
        views: of each image, to be averaged; None takes the one that evaluation takes.
        keep: which of `values` and `features` are kept.
        what: a few words for the screen.
        block_size: images in a block, which is what an interruption may cost.
        source: what the images are read from, as from `ImageViews`; None takes the files.

    Returns:
        the images that could be read; the others are counted in a `RunWarning`, and listed in `unreadable`.

    Raises:
        UserError: the folder holds encodings of other images or another model, or no image can be read.
    """
    views = views or Views()
    settings = trained.settings
    plan = EncodingPlan(tuple(names), {**model_identity(trained, views), "keep": ", ".join(keep)}, block_size)
    try:
        begin(target, plan)
    except ForeignEncodingsError as error:
        raise UserError(f"{error}. Remove that folder, or name another one") from error
    missing = {number: plan.positions(number) for number in missing_blocks(target, plan)}
    trainer = _trainer(settings, EncodingWriter(target, plan, keep))
    if missing or trainer.world_size > 1:
        size = trained.task.backbone.image_size
        images = source or ImageViews(image_folder, plan.names, size, build.centre_cut(settings, size), views)
        batch_size = max((settings["data"]["eval_batch_size"] or settings["data"]["batch_size"]) // views.number, 1)
        data = ImagesToEncode(images, missing, batch_size, settings["data"]["num_workers"])
        _say(trainer, f"Encoding {what}: {sum(map(len, missing.values())):,} of {len(names):,} images")
        # these batches are whole blocks, and the last one is not dropped
        warnings.filterwarnings("ignore", "You are using a custom batch sampler .* for prediction.*")
        encoder = Encoder(trained.task)
        interruptible(lambda: trainer.predict(encoder, datamodule=data, return_predictions=False))
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        finish(target, plan)
    trainer.strategy.barrier()
    encodings = read_encodings(target)
    _report_unreadable(encodings, what)
    return encodings


def _trainer(settings: Settings, writer: EncodingWriter) -> L.Trainer:
    """Build a trainer with the run's devices and precision, and nothing around it but a bar and the writer."""
    progress = settings["callbacks"].get("progress")
    bar = [] if progress is None else [build.build(progress)]
    trainer: L.Trainer = build.build(
        settings["trainer"],
        build.METADATA["trainer"],
        callbacks=[writer, *bar],
        logger=False,
        default_root_dir=settings["paths"]["run_dir"],
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=bool(bar),
        limit_predict_batches=None,
        profiler=None,
        fast_dev_run=False,
    )
    return trainer


def _say(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        say(text)


def _report_unreadable(encodings: Encodings, what: str) -> None:
    count = len(encodings.unreadable)
    if not encodings.names:
        reasons: Mapping[str, str] = encodings.unreadable
        first = next(iter(reasons.items()), ("", "there are none"))
        raise UserError(f"none of the {count:,} {what} can be read; the first, {first[0]}: {first[1]}")
    if count and is_first_process():
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(encodings.unreadable.items())[:SHOWN])
        warnings.warn(
            f"{count:,} of {count + len(encodings):,} {what} cannot be read; the first: {shown}",
            RunWarning,
            stacklevel=3,
        )


def own_folder(trained: TrainedRun, what: str, names: Sequence[str], views: Views) -> Path:
    """Return where a run keeps its encodings of a list of images: other weights, views or images, another folder."""
    content = repr((sorted(model_identity(trained, views).items()), list(names)))
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    return RunDirectory(trained.settings["run"]).codes_folder / f"{what}-{digest[:12]}"


def encode_once(
    trained: TrainedRun, image_folder: Path, names: Sequence[str], what: str, views: Views | None = None
) -> Encodings:
    """Encode images into a folder of the run's own, named after what they are; a second call finds them there."""
    views = views or Views()
    return encode_images(
        trained, image_folder, names, own_folder(trained, what, names, views), views=views, what=f"{what} images"
    )


def encode_unlabelled(trained: TrainedRun, images: Any, views: Views | None = None) -> dict[str, Encodings]:
    """Encode the parts without labels that a contest's data name, query and gallery.

    Args:
        trained: the run.
        images: data with `unlabelled_parts` and `unlabelled_images`, the run's own or another run's.
        views: see `encode_images`.
    """
    encoded = {}
    for part in images.unlabelled_parts:
        folder, names = images.unlabelled_images(part)
        encoded[part] = encode_once(trained, folder, names, part, views)
    return encoded
