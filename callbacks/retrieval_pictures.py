"""The pictures and the codes of a retrieval test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.logged_pictures import log_picture
from records.atomic_file import replace_atomically
from records.canvas import Picture
from records.code_figures import bits_picture
from records.figures import NEIGHBOURS, gallery_picture, precision_recall_picture
from records.run_directory import RunDirectory
from records.wandb_names import picture_name
from retrieval.search import nearest_codes
from retrieval.statistics import bit_products, count_bits, ones_shares

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from retrieval.evaluation import RetrievalResult


class RetrievalPictures(Callback):
    """Write the pictures and the codes of a retrieval result at the end of a test; show the pictures in the loggers.

    The files are plots/pr_curve.png, plots/gallery.png, plots/bits.png and codes/codes.npz. Reads
    `pl_module.retrieval_result` (a `RetrievalResult`) and `trainer.datamodule.pictures(split, positions)` for
    the splits `query` and `database`. A task without a retrieval result gets no files. Only rank 0 writes.

    Args:
        directory: the run directory.
        seed: chooses the queries of the gallery.
        queries: number of queries in the gallery; all of them where the data have fewer.
    """

    def __init__(self, directory: str, seed: int = 0, queries: int = 8) -> None:
        self._run = RunDirectory(Path(directory))
        self._seed = seed
        self._queries = queries

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        result: RetrievalResult | None = getattr(pl_module, "retrieval_result", None)
        if result is None or not trainer.is_global_zero:
            return
        pictures = {
            self._run.pr_curve: curve_picture(result),
            self._run.gallery: self._gallery(result, trainer),
            self._run.bits: code_picture(result),
        }
        for path, picture in pictures.items():
            picture.save(path)
            log_picture(trainer.loggers, picture_name("test", path), path, trainer.global_step)
        write_codes(self._run.codes, result)

    def _gallery(self, result: RetrievalResult, trainer: pl.Trainer) -> Picture:
        found = nearest_pictures(result, trainer.datamodule, self._seed, self._queries)  # type: ignore[attr-defined]
        return gallery_picture(found.queries, found.neighbours, found.hit, found.distances, found.titles)


@dataclass(frozen=True)
class NearestPictures:
    """Some queries and their nearest database pictures, nearest first.

    Attributes:
        queries: (n, 3, H, W) uint8.
        neighbours: (n, k, 3, h, w) uint8.
        hit: (n, k) bool, whether the neighbour is relevant.
        distances: (n, k), Hamming distances.
        titles: n texts, the class of each query.
    """

    queries: np.ndarray
    neighbours: np.ndarray
    hit: np.ndarray
    distances: np.ndarray
    titles: list[str]


def nearest_pictures(result: RetrievalResult, data: Any, seed: int, queries: int) -> NearestPictures:
    """Choose queries by the seed, and read their pictures and those of their nearest neighbours.

    Args:
        result: of the retrieval test.
        data: with `pictures(split, positions)` and `class_names`.
        seed: chooses the queries.
        queries: how many; all of them where there are fewer.
    """
    chosen = choose_queries(len(result.query), queries, seed)
    count = min(NEIGHBOURS, len(result.database))
    codes = result.query.codes[chosen]
    distances, positions = nearest_codes(codes, result.database.codes, result.query.bits, count)
    pictures = data.pictures("query", torch.from_numpy(result.query.index[chosen]))
    found = data.pictures("database", torch.from_numpy(result.database.index[positions.ravel()]))
    labels = result.query.labels[chosen]
    return NearestPictures(
        pictures.numpy(),
        found.numpy().reshape(*positions.shape, *found.shape[1:]),
        share_a_label(labels, result.database.labels[positions]),
        distances,
        [label_text(label, data.class_names) for label in labels],
    )


def curve_picture(result: RetrievalResult) -> Picture:
    """Draw the precision-recall curve of a retrieval result."""
    curve, bits = result.curve, result.query.bits
    empty = int(curve.empty_balls[0])
    note = f" {empty} of {len(result.query)} queries find nothing at radius 0; they count as precision 0 there."
    picture = precision_recall_picture(curve.precision.tolist(), curve.recall.tolist(), bits=bits)
    return Picture(picture.figure, picture.title, picture.description + (note if empty else ""))


def code_picture(result: RetrievalResult) -> Picture:
    """Draw balance and correlation of the bits of the database's codes."""
    counts = count_bits(result.database.codes, result.database.bits)
    return bits_picture(ones_shares(counts), bit_products(counts) / counts.items)


def choose_queries(total: int, count: int, seed: int) -> np.ndarray:
    """Choose rows of the query table at random, rising; a function of the three arguments alone.

    Returns:
        (min(count, total),) int64.
    """
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def share_a_label(query_labels: np.ndarray, neighbour_labels: np.ndarray) -> np.ndarray:
    """Say which neighbours are relevant: those that share at least one label with their query.

    Args:
        query_labels: (n,) integers, or (n, C) bool multi-hot.
        neighbour_labels: (n, k), or (n, k, C).

    Returns:
        (n, k) bool.
    """
    if query_labels.ndim == 1:
        return query_labels[:, None] == neighbour_labels
    return (query_labels[:, None, :] & neighbour_labels).any(axis=-1)


def label_text(label: np.ndarray, class_names: Sequence[str]) -> str:
    """Name a sample's class, or its classes where it has several; `no label` where it has none."""
    classes = np.atleast_1d(label) if np.ndim(label) == 0 else np.flatnonzero(label)
    return ", ".join(class_names[int(position)] for position in classes) or "no label"


def write_codes(path: str | os.PathLike[str], result: RetrievalResult) -> None:
    """Write codes, labels and positions of both parts as a plain npz (`np.load(path, allow_pickle=False)`).

    Arrays: `bits` (), and for each of `query` and `database`: `PART_codes` (N, ceil(K / 64)) uint64,
    `PART_labels` (N,) int64 or (N, C) bool, `PART_index` (N,) int64.
    """
    arrays: dict[str, np.ndarray] = {"bits": np.array(result.query.bits)}
    for name, part in (("query", result.query), ("database", result.database)):
        arrays |= {f"{name}_codes": part.codes, f"{name}_labels": part.labels, f"{name}_index": part.index}
    with replace_atomically(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
