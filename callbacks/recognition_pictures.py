"""The pictures and the tables of a classifier's test."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from lightning.pytorch.callbacks import Callback

from callbacks.logged_pictures import log_picture
from records.atomic_file import write_text
from records.classification_figures import (
    confusion_picture,
    order_by_frequency,
    recall_curves_picture,
    recall_picture,
    reliability_picture,
)
from records.run_directory import RunDirectory
from records.wandb_names import picture_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl
    from numpy.typing import NDArray

    from records.canvas import Picture


class Calibration(Protocol):
    """Confidence against accuracy in M bins: edges (M + 1,), and for each bin samples, accuracy, mean confidence."""

    @property
    def edges(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def counts(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def accuracy(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def confidence(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def expected_error(self) -> float: ...  # noqa: D102


class Recognition(Protocol):
    """What a test of a classifier found: recalls (C,), confusion (C, C), calibration, training counts, groups (C,)."""

    @property
    def recalls(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def confusion(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration: ...  # noqa: D102
    @property
    def class_counts(self) -> tuple[int, ...] | None: ...  # noqa: D102
    @property
    def groups(self) -> dict[str, NDArray[np.bool_]]: ...  # noqa: D102


class RecognitionPictures(Callback):
    """Write the pictures and the tables of a recognition result at the end of a test, and show them in the loggers.

    The files are plots/class_recalls.png, plots/confusion.png, plots/reliability.png, plots/recall_curves.png (where
    two epochs were judged at least), recognition/classes.csv and recognition/confusion.csv. Reads
    `pl_module.recognition_result` and, for old recalls against new, `pl_module.recognition_before` (both a
    `Recognition`), and `trainer.datamodule.class_names`. A task without a recognition result, as one of
    retrieval, gets no files. Only rank 0 writes.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: str) -> None:
        self._run = RunDirectory(Path(directory))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        result: Recognition | None = getattr(pl_module, "recognition_result", None)
        if result is None or not trainer.is_global_zero:
            return
        before: Recognition | None = getattr(pl_module, "recognition_before", None)
        names: Sequence[str] = trainer.datamodule.class_names  # type: ignore[attr-defined]
        write_tables(self._run, result, names, before)
        pictures = result_pictures(self._run, result, names, before)
        curves = recall_curves_picture(self._run.metrics) if self._run.metrics.is_file() else None
        if curves is not None:
            pictures[self._run.recall_curves] = curves
        for path, picture in pictures.items():
            picture.save(path)
            log_picture(trainer.loggers, picture_name("test", path), path, trainer.global_step)


def write_tables(
    run: RunDirectory, result: Recognition, names: Sequence[str], before: Recognition | None = None
) -> None:
    """Write recognition/classes.csv and recognition/confusion.csv of a result."""
    write_text(run.class_table, class_table(result, names, before))
    write_text(run.confusion_table, confusion_table(result, names))


def result_pictures(
    run: RunDirectory, result: Recognition, names: Sequence[str], before: Recognition | None = None
) -> dict[Path, Picture]:
    """Draw recalls, confusions and reliability of a result, each under the file of the run that it belongs in."""
    calibration = result.calibration
    return {
        run.class_recalls: recall_picture(
            result.recalls,
            names,
            result.class_counts,
            before=None if before is None else before.recalls,
            groups=result.groups,
        ),
        run.confusion: confusion_picture(result.confusion, names, result.class_counts),
        run.reliability: reliability_picture(
            calibration.edges,
            calibration.counts,
            calibration.accuracy,
            calibration.confidence,
            calibration.expected_error,
        ),
    }


def class_table(result: Recognition, names: Sequence[str], before: Recognition | None = None) -> str:
    """Write every class as a line of CSV, the most frequent in training first; `class_rows` names the columns."""
    return _csv(class_rows(result, names, before))


def class_rows(result: Recognition, names: Sequence[str], before: Recognition | None = None) -> list[list[object]]:
    """Return the names of the columns, and a row for every class, the most frequent in training first.

    Columns: class, name, training_images (empty where they are unknown), test_images, recall (empty without test
    images), and recall_before where there was a classifier before.
    """
    size = len(result.recalls)
    counts = result.class_counts
    order = range(size) if counts is None else order_by_frequency(counts).tolist()
    tested = result.confusion.sum(axis=1).tolist()
    head = ["class", "name", "training_images", "test_images", "recall", *(["recall_before"] if before else [])]
    rows: list[list[object]] = [
        [
            label,
            names[label],
            "" if counts is None else counts[label],
            tested[label],
            _fraction(result.recalls[label]),
            *([_fraction(before.recalls[label])] if before else []),
        ]
        for label in order
    ]
    return [list(head), *rows]


def confusion_table(result: Recognition, names: Sequence[str]) -> str:
    """Write the numbers of samples by true class (row) and predicted class (column) as CSV, in label order."""
    return _csv(
        [["true class", *names], *([name, *row] for name, row in zip(names, result.confusion.tolist(), strict=True))]
    )


def _fraction(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
