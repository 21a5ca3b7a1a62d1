"""The pictures of a few-shot test: hardest pairs of classes, and best guesses beside images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.logged_pictures import log_picture
from records.fewshot_figures import guesses_picture, hardest_pairs_picture
from records.run_directory import RunDirectory

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from records.figures import Picture

GUESSES = 5


class FewShotPictures(Callback):
    """Write plots/hardest_pairs.png and plots/guesses.png at the end of a test, and show them in the loggers.

    Reads `pl_module.recognition_result`, and for the guesses `pl_module.classifier.predict` on the features of some
    test samples, with their images from `trainer.datamodule.pictures("test", positions)`; data without images, features
    from a file for instance, get no guesses. A task without a few-shot head gets no files. Only rank 0 writes.

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
        pictures = {
            self._run.hardest_pairs: hardest_pairs_picture(result.confusion, data.class_names),
            self._run.guesses: self._guesses(data, head),
        }
        for path, picture in pictures.items():
            if picture is not None:
                picture.save(path)
                log_picture(trainer.loggers, f"test/{path.stem}", path, trainer.global_step)

    def _guesses(self, data: Any, head: Any) -> Picture | None:
        if not hasattr(data, "pictures"):
            return None
        view = data.evaluation_view("test")
        chosen = np.sort(np.random.default_rng(self._seed).permutation(len(view))[: self._images])
        batch = view.__getitems__(chosen.tolist())
        probabilities = head.predict(batch["feature"]).double().softmax(dim=-1)
        best = probabilities.topk(min(GUESSES, probabilities.shape[-1]), dim=-1)
        names = data.class_names
        return guesses_picture(
            data.pictures("test", torch.from_numpy(chosen)).numpy(),
            [names[label] for label in batch["label"].tolist()],
            [[names[label] for label in row] for row in best.indices.tolist()],
            best.values.numpy(),
        )
