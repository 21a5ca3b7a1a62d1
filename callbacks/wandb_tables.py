"""What Weights & Biases is told beside metrics: settings, best values, tables, curves, histograms, artifacts."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy

from callbacks.loggers import SteadyWandbLogger
from callbacks.recognition_pictures import Recognition, class_rows
from callbacks.retrieval_pictures import NearestPictures, nearest_pictures
from records.metric_names import HEADLINE
from records.run_directory import RunDirectory
from records.run_settings import read_configuration
from records.wandb_names import CLASS_TABLE, CONFUSION, GALLERY_TABLE, PRE_SIGN, PRECISION_RECALL, STEP, Chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger

    from retrieval.curves import PrecisionRecallCurve
    from retrieval.evaluation import RetrievalResult

BINS = 64
# W&B shows no more rows of a table.
MAX_ROWS = 10_000


class WandbTables(Callback):
    """Tell W&B, where it logs the run, what people look for there.

    At the start: the configuration as nested values, and for the metrics which of their values is the best. At the end
    of a test: `test/classes` and `test/confusion_matrix` of a classifier; `test/gallery_table` with pictures,
    `test/precision_recall` and `test/pre_sign`, the values before the sign, of a hashing method; and what
    `logger.wandb.artifacts` names. Without that logger nothing is done.

    Args:
        directory: the run directory.
        seed: chooses the queries of the gallery.
        queries: number of queries in the gallery; all of them where the data have fewer.
    """

    def __init__(self, directory: str, seed: int = 0, queries: int = 8) -> None:
        self._run = RunDirectory(Path(directory))
        self._seed = seed
        self._queries = queries
        self._is_described = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the settings, and which values are the best."""
        if self._is_described or not trainer.is_global_zero or not self._run.config.is_file():
            return
        self._is_described = True
        tell_settings(trainer.loggers, self._run)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what the test found."""
        if not trainer.is_global_zero:
            return
        for logger in wandb_loggers(trainer.loggers):
            logger.record(lambda run: run.log({**self._content(trainer, pl_module), STEP: trainer.global_step}))
            logger.record(partial(self._keep, wanted=logger.artifacts))

    def _content(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        recognition: Recognition | None = getattr(pl_module, "recognition_result", None)
        retrieval: RetrievalResult | None = getattr(pl_module, "retrieval_result", None)
        content: dict[str, Any] = {}
        if recognition is not None:
            content |= recognition_content(recognition, data.class_names)
        if retrieval is not None:
            content[GALLERY_TABLE] = gallery_content(nearest_pictures(retrieval, data, self._seed, self._queries))
            content[PRECISION_RECALL.name] = curve_content(retrieval.curve)
            values = _pre_sign_values(trainer, pl_module)
            if values is not None:
                content[PRE_SIGN] = histogram_content(values)
        return content

    def _keep(self, run: Any, wanted: Sequence[str]) -> None:
        import wandb

        files = {
            "checkpoints": ("model", [self._run.best_checkpoint, self._run.last_checkpoint]),
            "codes": ("codes", [self._run.codes]),
        }
        for name in wanted:
            kind, present = files[name][0], [file for file in files[name][1] if file.is_file()]
            if present:
                artifact = wandb.Artifact(f"{run.id}-{name}", type=kind)
                for file in present:
                    artifact.add_file(str(file), name=file.name)
                run.log_artifact(artifact)


def tell_settings(loggers: Iterable[Logger], run: RunDirectory) -> None:
    """Tell W&B, where it is among the loggers, the configuration of a run and which values of a metric are best."""
    for logger in wandb_loggers(loggers):
        logger.record(partial(_describe, config=read_configuration(run.config)))


def recognition_content(result: Recognition, names: Sequence[str]) -> dict[str, Any]:
    """Return what W&B is told of a classifier: the table of classes and the confusion matrix, by name."""
    return {
        CLASS_TABLE: class_content(result, names),
        CONFUSION.name: confusion_content(result.confusion, names),
    }


def class_content(result: Recognition, names: Sequence[str]) -> Any:
    """Return the table of every class: training images, test images, recall."""
    import wandb

    head, *rows = class_rows(result, names)
    recall = head.index("recall")
    told: list[Iterable[Any]] = []
    for row in rows:
        cells: list[Any] = [None if cell == "" else cell for cell in row]
        # a recall is text in the file, so that it keeps its bits
        cells[recall] = None if cells[recall] is None else float(cells[recall])
        told.append(cells)
    return wandb.Table(columns=[str(name) for name in head], data=told, allow_mixed_types=True)


def confusion_content(confusion: np.ndarray, names: Sequence[str]) -> Any:
    """Return W&B's own confusion matrix of (C, C) counts, true class by row; of many classes the largest cells."""
    import wandb

    names = distinct_names(names)
    cells: list[list[Any]] = [
        [names[true], names[predicted], int(confusion[true, predicted])]
        for true, predicted in np.ndindex(*confusion.shape)
        if confusion[true, predicted] or confusion.size <= MAX_ROWS
    ]
    largest = sorted(cells, key=lambda cell: -cell[2])[:MAX_ROWS] if len(cells) > MAX_ROWS else cells
    return _drawn(CONFUSION, wandb.Table(columns=list(CONFUSION.fields.values()), data=[*largest]))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return names by which classes can be told apart: a name of several classes has the class number behind it."""
    counts = Counter(names)
    numbered = [f"{name} ({number})" for number, name in enumerate(names)]
    told = [name if counts[name] == 1 else numbered[number] for number, name in enumerate(names)]
    # a class may be called as another one is with its number
    return told if len(set(told)) == len(told) else numbered


def gallery_content(found: NearestPictures) -> Any:
    """Return the table of queries and their nearest pictures; each is captioned with its distance and whether it hits.

    The first columns are the query, its class, and the share of hits among its neighbours.
    """
    import wandb

    count = found.hit.shape[1]
    table = wandb.Table(columns=["query", "class", "hits", *(f"nearest {place}" for place in range(1, count + 1))])
    for row, title in enumerate(found.titles):
        neighbours = [
            wandb.Image(
                found.neighbours[row, column].transpose(1, 2, 0),
                caption=f"{'hit' if found.hit[row, column] else 'miss'}, distance {int(found.distances[row, column])}",
            )
            for column in range(count)
        ]
        query = wandb.Image(found.queries[row].transpose(1, 2, 0), caption=title)
        table.add_data(query, title, float(found.hit[row].mean()), *neighbours)
    return table


def curve_content(curve: PrecisionRecallCurve) -> Any:
    """Return precision over recall within each Hamming radius, as a line that W&B draws from its table."""
    import wandb

    rows: list[Iterable[Any]] = [
        [radius, float(recall), None if np.isnan(precision) else float(precision)]
        for radius, (recall, precision) in enumerate(zip(curve.recall, curve.precision, strict=True))
    ]
    table = wandb.Table(columns=["radius", "recall", "precision"], data=rows)
    return _drawn(PRECISION_RECALL, table)


def _drawn(chart: Chart, table: Any) -> Any:
    import wandb

    return wandb.plot_table(chart.kind, table, dict(chart.fields), {"title": chart.title})


def histogram_content(values: np.ndarray) -> Any:
    """Return the histogram of values before the sign, (N, K), over all bits; the sign is where it is cut at 0."""
    import wandb

    return wandb.Histogram(np_histogram=np.histogram(values, bins=BINS))


def wandb_loggers(loggers: Iterable[Logger]) -> list[SteadyWandbLogger]:
    """Return those of some loggers that log to W&B."""
    return [logger for logger in loggers if isinstance(logger, SteadyWandbLogger)]


def _describe(run: Any, config: Mapping[str, Any]) -> None:
    run.config.update(dict(config), allow_val_change=True)
    task = config.get("task") or {}
    best = {f"val/{name}": "max" for name in HEADLINE} | {"train/loss": "min"}
    if task.get("monitor"):
        best[f"val/{task['monitor']}"] = str(task.get("direction") or "max")
    for name, summary in best.items():
        run.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)


def _pre_sign_values(trainer: pl.Trainer, pl_module: pl.LightningModule) -> np.ndarray | None:
    """Return the values before the sign of the first queries, (B, K); None where one process cannot tell them."""
    if isinstance(trainer.strategy, FSDPStrategy):
        return None
    batch = next(iter(trainer.datamodule.evaluation_loader("query")), None)  # type: ignore[attr-defined]
    if batch is None:
        return None
    pl_module.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        outputs: Any = pl_module(pl_module.transfer_batch_to_device(batch, pl_module.device, 0))
    values: np.ndarray | None = outputs["h"].float().cpu().numpy() if "h" in outputs else None
    return values
