"""The answer to a contest: the best classes of every image of a test folder, written after the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from records.errors import UserError
from records.run_directory import RunDirectory
from records.submission import CLASSES_PER_IMAGE, write_submission

if TYPE_CHECKING:
    import lightning.pytorch as pl


class Submission(Callback):
    """Write submission/result.txt and result.zip into the run directory at the end of a test.

    Reads `trainer.datamodule.test_folder(folder)` and `test_folder_features(folder)`, and
    `pl_module.answers(features, number)`. All processes encode, only rank 0 writes.

    Args:
        directory: the run directory.
        folder: the test folder, below the data's root; None writes nothing.
        per_image: classes of each image.
    """

    def __init__(self, directory: str, folder: str | None = "TestSetB", per_image: int = CLASSES_PER_IMAGE) -> None:
        self._run = RunDirectory(Path(directory))
        self._folder = folder
        self._per_image = per_image

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look whether the folder is there, before any time is spent.

        Raises:
            UserError: data or task cannot answer, the folder is missing, or there are fewer classes than asked for.
        """
        if self._folder is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "test_folder") or not hasattr(pl_module, "answers"):
            raise UserError(
                "callbacks=submission answers a test folder without labels: take data=jittor and task=cascade, or "
                "callbacks.submission.folder=null"
            )
        if not 1 <= self._per_image <= data.num_classes:
            raise UserError(f"callbacks.submission.per_image={self._per_image}: 1 to {data.num_classes}, the classes")
        data.test_folder(self._folder)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Encode the folder, judge its images, write the answer."""
        if self._folder is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        task: Any = pl_module
        names, features = data.test_folder_features(self._folder)
        if not trainer.is_global_zero:
            return
        best = task.answers(features, self._per_image).tolist()
        answers = dict(zip(names, best, strict=True))
        write_submission(self._run.submission, answers, names, data.num_classes, self._per_image)
