"""What is drawn and logged of a run over many draws: there is no trainer, so that no callback is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from callbacks.few_shot_pictures import pair_pictures
from callbacks.logged_pictures import log_picture
from callbacks.metrics_table import MetricsTable
from callbacks.recognition_pictures import Recognition, result_pictures, write_tables
from callbacks.wandb_tables import recognition_content, tell_settings, wandb_loggers
from records.wandb_names import STEP, picture_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger

    from records.canvas import Picture
    from records.draws import Draw
    from records.run_directory import RunDirectory

PREFIX = "draws/"
"""Before the name of a metric of one draw; the name alone is the mean's."""


@dataclass(frozen=True)
class DrawsLog:
    """Where a run over draws is told.

    The metrics of each draw are logged as `draws/NAME` at the step of its place, with its seed; their means and the
    bounds of their intervals as `NAME` at the step behind the last. Tables and pictures are those of all draws
    together.

    Args:
        run: the run directory, for tables and pictures.
        loggers: told everything; metrics.csv is not among them, since draws.csv stands in its place.
        recognition_pictures: draw recalls, confusions and reliability, and write the tables of classes.
        few_shot_pictures: draw the hardest pairs.
        wandb_tables: tell W&B the configuration, the table of classes and the confusions.
    """

    run: RunDirectory
    loggers: Sequence[Logger] = field(default_factory=tuple)
    recognition_pictures: bool = True
    few_shot_pictures: bool = True
    wandb_tables: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "loggers", [one for one in self.loggers if not isinstance(one, MetricsTable)])

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Tell the settings, and at the end the loggers how the run within ended."""
        if self.wandb_tables:
            tell_settings(self.loggers, self.run)
        status = "failed"
        try:
            yield
            status = "success"
        finally:
            for logger in self.loggers:
                logger.finalize(status)
            for logger in wandb_loggers(self.loggers):
                logger.finish()

    def log_draw(self, draw: Draw, place: int) -> None:
        """Log the metrics of one draw."""
        metrics = {f"{PREFIX}{name}": value for name, value in draw.metrics.items()}
        for logger in self.loggers:
            logger.log_metrics({**metrics, f"{PREFIX}seed": float(draw.seed)}, step=place)

    def log_whole(self, metrics: Mapping[str, float], result: Recognition, names: Sequence[str], count: int) -> None:
        """Log what all draws say together, and write its tables and pictures.

        Args:
            metrics: means over the draws.
            result: of the test parts of all draws, as one.
            names: C names of classes.
            count: number of draws.
        """
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=count)
        if self.wandb_tables:
            for told in wandb_loggers(self.loggers):
                told.record(lambda run: run.log({**recognition_content(result, names), STEP: count}))
        if self.recognition_pictures:
            write_tables(self.run, result, names)
        for path, picture in self._pictures(result, names, count).items():
            picture.save(path)
            log_picture(self.loggers, picture_name("test", path), path, count)

    def _pictures(self, result: Recognition, names: Sequence[str], count: int) -> dict[Path, Picture]:
        pictures = result_pictures(self.run, result, names) if self.recognition_pictures else {}
        if self.few_shot_pictures:
            pictures |= pair_pictures(self.run, result.confusion, names)
        if count == 1:
            return pictures
        note = f"Of the test parts of {count} draws together: an image that several draws test counts each time."
        return {path: replace(one, description=f"{one.description} {note}") for path, one in pictures.items()}
