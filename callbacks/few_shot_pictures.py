"""The pictures of a few-shot test: hardest pairs of classes, and best guesses beside images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.logged_pictures import log_picture
from records.fewshot_figures import cosine_heatmap_picture, guesses_picture, hardest_pairs_picture
from records.run_directory import RunDirectory
from records.wandb_names import picture_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from records.canvas import Picture

GUESSES = 5


class FewShotPictures(Callback):
    """Write the pictures of a few-shot head at the end of a test, and show them in the loggers.

    The files are plots/hardest_pairs.png, plots/guesses.png and plots/text_cosines.png. Reads
    `pl_module.recognition_result`, and for the guesses `pl_module.classifier.predict` on the features of some test
    samples, with their images from `trainer.datamodule.pictures("test", positions)`; data without images, features from
    a file for instance, get none of these. The cosines are those of the same samples with `text_features` (C, D), where
    the data have descriptions of classes. A task without a few-shot head gets no files. Only rank 0 writes.

    Args:
        directory: the run directory.
        seed: chooses the images.
        images: number of images with their guesses; all where there are fewer.
    """

    def __init__(self, directory: str, seed: int = 0, images: int = 8) -> None:
        self._run = RunDirectory(Path(directory))
        self._seed = seed
        self._images = images

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the pictures."""
        result: Any = getattr(pl_module, "recognition_result", None)
        head: Any = getattr(pl_module, "classifier", None)
        if result is None or not hasattr(head, "predict") or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        pictures: dict[Path, Picture | None] = {**pair_pictures(self._run, result.confusion, data.class_names)}
        if hasattr(data, "pictures"):
            shown = self._samples(data)
            pictures |= {
                self._run.guesses: guesses(shown, head, data.class_names),
                self._run.text_cosines: text_cosines(shown, getattr(data, "text_features", None), data.class_names),
            }
        for path, picture in pictures.items():
            if picture is not None:
                picture.save(path)
                log_picture(trainer.loggers, picture_name("test", path), path, trainer.global_step)

    def _samples(self, data: Any) -> Samples:
        view = data.evaluation_view("test")
        chosen = np.sort(np.random.default_rng(self._seed).permutation(len(view))[: self._images])
        batch = view.__getitems__(chosen.tolist())
        pictures = data.pictures("test", torch.from_numpy(chosen)).numpy()
        return Samples(batch["feature"], batch["label"].tolist(), pictures)


def pair_pictures(run: RunDirectory, confusion: np.ndarray, names: Sequence[str]) -> dict[Path, Picture]:
    """Draw the hardest pairs of a confusion matrix (C, C), under the file of the run; nothing where there are none."""
    picture = hardest_pairs_picture(confusion, names)
    return {} if picture is None else {run.hardest_pairs: picture}


@dataclass(frozen=True)
class Samples:
    """Some test samples: features (n, D), labels, and images (n, 3, H, W) uint8."""

    features: torch.Tensor
    labels: list[int]
    images: np.ndarray


def guesses(shown: Samples, head: Any, names: Sequence[str]) -> Picture:
    """Draw the most probable classes of each sample beside its image."""
    probabilities = head.predict(shown.features).double().softmax(dim=-1)
    best = probabilities.topk(min(GUESSES, probabilities.shape[-1]), dim=-1)
    return guesses_picture(
        shown.images,
        [names[label] for label in shown.labels],
        [[names[label] for label in row] for row in best.indices.tolist()],
        best.values.numpy(),
    )


def text_cosines(shown: Samples, text: torch.Tensor | None, names: Sequence[str]) -> Picture | None:
    """Draw the cosine of each sample with descriptions of classes: its own, and the one that is nearest to it.

    Args:
        shown: the samples.
        text: (C, D); None where classes have no descriptions, and then there is no picture.
        names: C names.
    """
    if text is None:
        return None
    cosines = (unit(text) @ unit(shown.features).T).numpy()
    nearest = cosines.argmax(axis=0).tolist()
    rows = sorted({*shown.labels, *nearest})
    right = sum(row == label for row, label in zip(nearest, shown.labels, strict=True))
    return cosine_heatmap_picture(
        cosines[rows],
        list(shown.images),
        [names[row] for row in rows],
        [names[label] for label in shown.labels],
        title="Cosine between images and descriptions of classes",
        description=(
            f"Cosine similarity of {len(shown.labels)} test images (columns, with their classes) with descriptions of "
            "classes (rows): of their own and of those nearest to them, before any head. A frame marks the best row of "
            f"each image; for {right} of them it is the own class."
        ),
    )


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Return rows (n, D) scaled to length 1, in float64."""
    return torch.nn.functional.normalize(rows.double().cpu(), dim=-1)
