"""draws.csv: the metrics of every draw of a run that judges several, and their mean with its 95 % interval."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from records.atomic_file import write_text
from records.errors import UserError
from records.metric_names import bounds_of, is_bound
from records.statistic import Statistic, statistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from records.result import Result

KEY_COLUMNS = ("seed", "fingerprint")
MODE_KEYS = ("mode", "draws", "stack_gib")
"""The keys of `mode=draws` itself: the run of one draw alone has none of them."""


@dataclass(frozen=True)
class Draw:
    """One draw: the seed that makes it, the hash of its split lists, and its metrics, as its own run has them."""

    seed: int
    fingerprint: str
    metrics: Mapping[str, float]


def write_draws(path: Path, draws: Sequence[Draw]) -> None:
    """Write draws.csv, atomically; numbers are written so that reading them gives the same bits."""
    names = list(dict.fromkeys(name for draw in draws for name in draw.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEY_COLUMNS, *names])
    for draw in draws:
        cells = [repr(draw.metrics[name]) if name in draw.metrics else "" for name in names]
        writer.writerow([draw.seed, draw.fingerprint, *cells])
    write_text(path, text.getvalue())


def read_draws(path: Path) -> list[Draw]:
    """Read draws.csv; nothing where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [
            Draw(
                int(row["seed"]),
                row["fingerprint"],
                {name: float(cell) for name, cell in row.items() if name not in KEY_COLUMNS and cell},
            )
            for row in rows
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); run again, its command is in result.json") from error


def statistics_of(draws: Sequence[Draw]) -> dict[str, Statistic]:
    """Return mean and interval over the draws of each metric that every draw has; bounds of a draw have none."""
    common = [name for name in draws[0].metrics if all(name in draw.metrics for draw in draws)]
    return {
        name: statistic([draw.metrics[name] for draw in draws])
        for name in common
        if not is_bound(name, draws[0].metrics)
    }


def metrics_over(draws: Sequence[Draw]) -> dict[str, float]:
    """Return the means as flat metrics, of several draws with the bounds of their 95 % interval (Student's t)."""
    metrics: dict[str, float] = {}
    for name, found in statistics_of(draws).items():
        metrics[name] = found.mean
        if math.isfinite(found.half_width):
            low, high = bounds_of(name)
            metrics |= {low: found.mean - found.half_width, high: found.mean + found.half_width}
    return metrics


def result_of(draw: Draw, whole: Result) -> Result:
    """Return the record of one draw out of that of all: what its own run, by `mode=train`, would have told."""
    overrides = [one for one in whole.overrides if one.partition("=")[0] not in (*MODE_KEYS, "seed")]
    monitor = whole.monitor
    if monitor is not None:
        monitor = {**monitor, "value": draw.metrics.get(monitor["name"])}
    return replace(
        whole,
        seed=draw.seed,
        fingerprint=draw.fingerprint,
        metrics=dict(draw.metrics),
        overrides=[*overrides, f"seed={draw.seed}"],
        monitor=monitor,
    )
