"""One image put to a trained run: a file, or a sample of the run's own data, and what the run says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.encoded.feature_sets import FeatureDataModule
from datamodules.images.encoder_views import ImageFileViews, ViewSettings
from datamodules.images.image_files import DAMAGE, ImageFiles, decode
from datamodules.images.images_to_encode import ImageViews, Views
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from lit_modules.predictor import Predictor, Scores, kind_of_scores
from modes import build
from modes.binding import locate
from modes.encoding import makes_features
from modes.image_codes import TrainedRun
from modes.life import Settings
from records.errors import UserError
from retrieval.codes import to_bits

PICTURE_SIDE = 320
GREY = 224


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: what it is called.
        batch: the sample as a batch of one, or of its views.
        picture: (3, H, W) uint8, for people.
        classes: numbers of its own classes; None where they are not known.
    """

    name: str
    batch: Mapping[str, Tensor]
    picture: np.ndarray
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What a run says of one image.

    Attributes:
        bits: (K,) bool, its code; None where the task has no hash layer.
        scores: (C,) float64 of the classes; None where the task tells none.
        kind: what the scores are.
    """

    bits: np.ndarray | None
    scores: np.ndarray | None
    kind: Scores

    def best(self, names: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return name and score of the likeliest classes, the best first, equal ones in the order of the classes."""
        if self.scores is None:
            return []
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(names[place], float(self.scores[place])) for place in order]


def check_question(settings: Settings) -> None:
    """Raise UserError unless exactly one of `image` and `index` is given."""
    given = [key for key in ("image", "index") if settings[key] is not None]
    if len(given) != 1:
        what = "both are given" if given else "neither is given"
        raise UserError(
            f"mode={settings['mode']} takes one image: image=FILE, or index=NUMBER for a sample of the run's own test "
            f"data; {what}"
        )


def read_sample(trained: TrainedRun, views: Views | None = None) -> Sample:
    """Read the image that `image` or `index` names, in the views that are asked for; None takes evaluation's one.

    Raises:
        UserError: it cannot be read, there is no such sample, or the run never saw an image.
    """
    settings, views = trained.settings, views or Views()
    check_question(settings)
    if settings["image"] is not None:
        return _file(trained, Path(settings["image"]).expanduser().absolute(), views)
    return _own_sample(trained, settings["index"], settings["split"], views)


def ask(trained: TrainedRun, sample: Sample) -> Answer:
    """Put one image to the run, on one of its devices and at its precision; several views are averaged."""
    trainer: L.Trainer = build.build(
        {**trained.settings["trainer"], "devices": 1, "num_nodes": 1, "strategy": "auto", "fast_dev_run": False},
        build.METADATA["trainer"],
        logger=False,
        # on a cluster the launched processes would be held against the number of devices
        plugins=[LightningEnvironment()],
        limit_predict_batches=None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=None,
    )
    loader: Any = DataLoader([dict(sample.batch)], batch_size=None)  # type: ignore[arg-type]
    batches: Any = trainer.predict(Predictor(trained.task), loader)
    found = {name: rows.mean(dim=0).numpy() for name, rows in batches[0].items()}
    return Answer(
        bits=to_bits(found["values"]) if "values" in found else None,
        scores=found.get("scores"),
        kind=kind_of_scores(trained.task),
    )


def sees_images(settings: Settings) -> bool:
    """Say whether the run's backbone makes the features that its task judges, so that new images can be put to it."""
    target: Any = locate(settings["data"]["_target_"])
    return not issubclass(target, FeatureDataModule) or makes_features(settings)


def _further_encoders(settings: Settings) -> list[str]:
    return [name for name, node in (settings["task"].get("encoders") or {}).items() if node is not None]


def _file(trained: TrainedRun, path: Path, views: Views) -> Sample:
    if not sees_images(trained.settings) or _further_encoders(trained.settings):
        raise UserError(
            f"image={path}: data={trained.settings['data']['name']} are features that this run's model does not make "
            "by itself; name a sample of the run's test data instead: index=NUMBER"
        )
    return Sample(path.name, _batch_of_file(trained, path, views), picture_of(path))


def _batch_of_file(trained: TrainedRun, path: Path, views: Views) -> dict[str, Tensor]:
    size = trained.task.backbone.image_size
    if makes_features(trained.settings):
        pixels = ImageFileViews([path], ViewSettings(size))[0]
        feature = FrozenEncoder(trained.task.backbone).encode_images(pixels)
        return {"feature": F.normalize(feature, dim=-1)}
    item = ImageViews(path.parent, [path.name], size, build.centre_cut(trained.settings, size), views)[0]
    if item["reason"]:
        raise UserError(f"image={path}: {item['reason']}")
    return {"image": item["image"]}


def picture_of(path: Path) -> np.ndarray:
    """Read an image file for people: (3, H, W) uint8, at most 320 pixels a side.

    Raises:
        UserError: it cannot be read.
    """
    try:
        image = decode(path)
    except DAMAGE as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(f"image={path}: {reason or type(error).__name__}") from error
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _own_sample(trained: TrainedRun, index: Any, split: str | None, views: Views) -> Sample:
    data: Any = trained.data
    split = split or data.test_splits[0]
    if split not in data.sizes:
        raise UserError(f"split={split}: the run's data have the splits {', '.join(data.sizes)}")
    size = data.sizes[split]
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < size:
        raise UserError(f"index={index}: the split {split!r} has {size:,} samples, numbered 0 to {size - 1}")
    sample = data.evaluation_view(split)[index]
    if views == Views():
        batch = {name: torch.as_tensor(value)[None] for name, value in sample.items() if name in ("image", "feature")}
    else:
        batch = _batch_of_file(trained, _path_of(data, split, index), views)
    return Sample(f"{split} {index}", batch, picture_of_sample(data, split, index), classes_of(sample["label"]))


def _path_of(data: Any, split: str, index: int) -> Path:
    source = data.data.source
    if not isinstance(source, ImageFiles):
        raise UserError(f"index={index}: the database holds means of several views, which take a file: image=FILE")
    return source.path(int(data.positions(split)[index])).absolute()


def picture_of_sample(data: Any, split: str, position: int) -> np.ndarray:
    """Return a sample for people: (3, H, W) uint8; a grey square where the data hold no pictures."""
    if not hasattr(data, "pictures"):
        return np.full((3, 8, 8), GREY, dtype=np.uint8)
    picture: np.ndarray = data.pictures(split, torch.tensor([position]))[0].numpy()
    return picture


def classes_of(label: Any) -> tuple[int, ...]:
    """Return the numbers of a sample's classes, from a class number or multi-hot (C,)."""
    values = torch.as_tensor(label)
    return (int(values),) if values.ndim == 0 else tuple(values.nonzero()[:, 0].tolist())


def class_text(classes: Sequence[int], names: Sequence[str]) -> str:
    """Name the classes of a sample."""
    return ", ".join(names[number] for number in classes) or "no class"
