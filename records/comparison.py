"""Any runs and sweeps side by side: rows of runs that differ in seed and fold alone, ranked, and paired by seed."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from records.errors import UserError
from records.metric_names import COUNTS, bare, is_bound
from records.override_set import override_settings, retold
from records.paired_tests import PairedDifference, holm, paired_difference
from records.run_settings import (
    ROW,
    SEED_MARK,
    flat_settings,
    name_keys,
    read_configuration,
    setting_name,
    start_of,
    telling_keys,
    without_seeds,
)
from records.starting_runs import with_starting_runs
from records.statistic import Statistic, statistic
from records.sweep_summary import AVERAGED_KEYS, SweepJob, draws_of, names_of_metrics, read_jobs

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from records.published import PublishedFigure
    from records.result import Result

MAX_METRICS = 5
"""Metrics of a table where none are named."""

SMALLER_IS_BETTER = ("ece", "loss", "quantization_error", "bit_correlation", *COUNTS)
"""Beginnings of the names of metrics of which less is better; what a run monitors says so itself."""

Pair = tuple[int, str]


@dataclass(frozen=True)
class ComparedRun:
    """A run: where it lies, its record (`job.result`, None where it cannot be read), and its flat settings."""

    folder: Path
    job: SweepJob
    settings: Mapping[str, str]
    fold: str = "null"

    @property
    def pair(self) -> Pair:
        """Seed and fold, by which runs of two rows belong together."""
        assert self.job.result is not None
        return self.job.result.seed, self.fold


@dataclass(frozen=True)
class ComparedRow:
    """Runs that differ in nothing but seed and fold.

    `runs` are the completed ones, one for each seed and fold; `repeats` the earlier ones of the same seed and fold,
    which are told and not counted.
    """

    name: str
    settings: Mapping[str, str]
    runs: tuple[ComparedRun, ...]
    repeats: tuple[ComparedRun, ...]
    metrics: Mapping[str, Statistic]

    def values(self, metric: str) -> dict[Pair, float]:
        """Return seed and fold to value, of the runs in which the metric was measured."""
        return {run.pair: run.job.metrics[metric] for run in self.runs if metric in run.job.metrics}

    @property
    def results(self) -> list[Result]:
        """The records of the runs."""
        return [run.job.result for run in self.runs if run.job.result is not None]

    @property
    def is_transductive(self) -> bool:
        """Whether a fit saw the unlabelled images of the test part."""
        return any(result.is_transductive for result in self.results)

    @property
    def chose_on_test(self) -> bool:
        """Whether settings were chosen on the labels of the test part."""
        return any(result.chose_on_test for result in self.results)


@dataclass(frozen=True)
class Difference:
    """A row against the baseline of its board, by the metric that ranks.

    `paired` is None where the two have no seed in common; `adjusted_p` is the paired t test's p after Holm's correction
    for all rows that are compared with this baseline; `other_splits` says that a pair was not judged on the same lists.
    """

    row: ComparedRow
    baseline: ComparedRow
    paired: PairedDifference | None
    adjusted_p: float = math.nan
    other_splits: bool = False


@dataclass(frozen=True)
class Board:
    """The rows of one data set, the best first.

    `keys` tell the rows apart, `metrics` are all names in order of interest, `shown` those of the tables, `metric` is
    the one that ranks, `differences` are those of all other rows from the baseline by that metric, and `published`
    holds what others reported.
    """

    data: str
    rows: tuple[ComparedRow, ...]
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    shown: tuple[str, ...]
    metric: str
    smaller_is_better: bool
    level: float
    differences: tuple[Difference, ...]
    published: tuple[PublishedFigure, ...] = ()

    @property
    def tested(self) -> list[Difference]:
        """The differences of two pairs at least, of which chance can be told."""
        return [one for one in self.differences if one.paired is not None and one.paired.count > 1]

    def is_better(self, difference: float) -> bool:
        """Say whether a difference of the metric is for the good."""
        return difference < 0 if self.smaller_is_better else difference > 0


@dataclass(frozen=True)
class Comparison:
    """All runs by the time they started, and a board for each data set that a run completed on."""

    runs: tuple[ComparedRun, ...]
    boards: tuple[Board, ...]

    @property
    def counted(self) -> int:
        """Number of runs that the boards are made of."""
        return sum(len(row.runs) for board in self.boards for row in board.rows)


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[ComparedRun]:
    """Read every run at or below these folders, each once, by the time they started.

    What lies below a run (its stages, a later test of it) is no run of its own here; name it to compare it.

    Raises:
        UserError: a folder does not exist, or holds no run.
    """
    found: dict[tuple[Path, str], ComparedRun] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"runs={folder}: there is no such folder. Name runs, sweeps, or folders of them.")
        jobs = read_jobs(folder)
        if not jobs:
            raise UserError(f"runs={folder}: there is no run (result.json) at or below it. A run prints its folder.")
        for job in jobs:
            place = folder / job.name
            shown = SweepJob(_shown(folder, job), job.result, job.problem)
            for one in draws_of(place, shown):
                mark = "" if one.result is None else str(one.result.seed)
                found.setdefault((place.resolve(), mark), _compared(place, one))
    return sorted(found.values(), key=lambda run: run.job.result.started if run.job.result else "")


def compare(
    runs: Sequence[ComparedRun],
    metric: str | None = None,
    baseline: str | None = None,
    level: float = 0.05,
    *,
    shown: Sequence[str] = (),
    published: Sequence[PublishedFigure] = (),
) -> Comparison:
    """Rank the rows of each data set and compare them with its baseline, by pairs of equal seed and fold.

    Args:
        runs: as `read_runs` gives them.
        metric: what ranks, `test/NAME` or `NAME` for short; None, and for data without it, the one that runs monitor.
        baseline: name of a row; None, and for data that it is not of, the best row.
        level: of significance, in (0, 1).
        shown: metrics of the tables, `test/NAME` or `NAME`; none: the first ones in order of interest.
        published: figures of others, to stand beside the rows they name.

    Raises:
        UserError: no run completed with a metric, or a metric, the baseline or a published row is none of theirs.
    """
    if not 0 < level < 1:
        raise UserError(f"level={level}: the level of significance lies between 0 and 1; 0.05 is usual")
    completed = [run for run in runs if run.job.completed and run.job.metrics]
    if not completed:
        raise UserError(f"runs: none of the {len(runs)} runs completed with a metric, so there is nothing to compare.")
    metrics = names_of_metrics([run.job for run in completed])
    chosen = None if metric is None else _chosen_metric(metric, metrics, "by")
    columns = [_chosen_metric(name, metrics, "metrics") for name in shown]
    groups: dict[str, list[ComparedRun]] = {}
    for run in completed:
        groups.setdefault(run.settings["data.name"], []).append(run)
    wanted = _Wanted(chosen, baseline, level, columns, tuple(published))
    boards = tuple(_board(data, members, wanted) for data, members in sorted(groups.items()))
    if baseline is not None:
        _check_row("baseline", baseline, [row.name for board in boards for row in board.rows])
    for figure in published:
        _check_published(figure, boards)
    return Comparison(tuple(runs), boards)


def command_of(row: ComparedRow, is_place: Callable[[str], bool]) -> str:
    """Return the line for the shell that runs a row again, all its seeds; places on this disk are told as PLACE.

    `is_place` says which keys hold paths. Where runs are written (`paths.*`) is left out.
    """
    typed = row.results[0].overrides
    settings, texts = override_settings(typed), retold(typed)
    arguments = []
    for key, value in settings.items():
        if key in (*AVERAGED_KEYS, "run") or key.startswith("paths."):
            continue
        place = is_place(key) and value not in ("", "null")
        arguments.append(f"{texts[key].partition('=')[0]}={_place(value)}" if place else texts[key])
    seeds = sorted({pair[0] for pair in (run.pair for run in row.runs)})
    folds = sorted({run.fold for run in row.runs if run.fold != "null"})
    swept = [f"seed={','.join(map(str, seeds))}"] + ([f"data.fold={','.join(folds)}"] if folds else [])
    several = ["-m"] if len(seeds) > 1 or len(folds) > 1 else []
    return shlex.join(["python", "run.py", *several, *arguments, *swept])


def _place(value: str) -> str:
    """Return what stands for a place; a last part that follows a setting, as in `outputs/ce/${seed}`, stays."""
    last = Path(value.replace("\\", "")).name
    return f"PLACE/{last}" if "${" in last else "PLACE"


def _compared(folder: Path, job: SweepJob) -> ComparedRun:
    if job.result is None:
        return ComparedRun(folder, job, {})
    try:
        config = read_configuration(folder / "config.yaml")
    except UserError as error:
        return ComparedRun(folder, SweepJob(job.name, None, str(error)), {})
    fold = str((config.get("data") or {}).get("fold"))
    names = {f"{name}.name": getattr(job.result, name) for name in ("task", "model", "data")}
    settings = with_starting_runs({**flat_settings(config), **names})
    return ComparedRun(folder, job, settings, "null" if fold == "None" else fold)


def _shown(folder: Path, job: SweepJob) -> str:
    """Return the place of a run below the folder that was named, with that folder's own name."""
    own = folder.resolve().name
    return own if job.name == "." else f"{own}/{job.name}"


@dataclass(frozen=True)
class _Wanted:
    """What was asked of every board; see `compare`."""

    metric: str | None
    baseline: str | None
    level: float
    shown: Sequence[str]
    published: tuple[PublishedFigure, ...]


def _board(data: str, runs: Sequence[ComparedRun], wanted: _Wanted) -> Board:
    metrics = names_of_metrics([run.job for run in runs])
    metric = wanted.metric if wanted.metric in metrics else metrics[0]
    smaller = _smaller_is_better(metric, [run.job.result for run in runs if run.job.result])
    settings = without_seeds([run.settings for run in runs])
    runs = [replace(run, settings=told) for run, told in zip(runs, settings, strict=True)]
    keys = telling_keys(settings)
    rows = tuple(sorted(_rows(runs, keys), key=lambda row: _rank(row, metric, smaller)))
    differences = tuple(_differences(rows, metric, wanted.baseline))
    shown = tuple(name for name in wanted.shown if name in metrics) or _first_metrics(metrics, metric)
    figures = tuple(one for one in wanted.published if any(one.stands_beside(row.name, data) for row in rows))
    return Board(data, rows, tuple(keys), tuple(metrics), shown, metric, smaller, wanted.level, differences, figures)


def _first_metrics(metrics: Sequence[str], ranking: str) -> tuple[str, ...]:
    """Return the first metrics in order of interest, the ranking one first; no bounds and no validation values."""
    names = dict.fromkeys(metrics, 0.0)
    others = [name for name in metrics if name != ranking and name.startswith("test/") and not is_bound(name, names)]
    return (ranking, *others)[:MAX_METRICS]


def _chosen_metric(metric: str, metrics: Sequence[str], key: str) -> str:
    for name in (metric, f"test/{metric}"):
        if name in metrics:
            return name
    raise UserError(f"{key}={metric} was measured in none of these runs; choices: {', '.join(metrics)}")


def _smaller_is_better(metric: str, results: Sequence[Result]) -> bool:
    monitors = [result.monitor for result in results if result.monitor]
    for monitor in monitors:
        if bare(str(monitor["name"])) == bare(metric):
            return bool(monitor["direction"] == "min")
    return bare(metric).startswith(SMALLER_IS_BETTER)


def _rows(runs: Sequence[ComparedRun], keys: Sequence[str]) -> list[ComparedRow]:
    groups: dict[tuple[str, ...], dict[Pair, list[ComparedRun]]] = {}
    for run in runs:
        # what one mode does not know is nothing, as null is
        identity = tuple(run.settings.get(key, "null") for key in keys)
        groups.setdefault(identity, {}).setdefault(run.pair, []).append(run)
    names = name_keys([run.settings for run in runs])
    own = _own_keys(runs, names)
    firsts = [next(iter(group.values()))[0] for group in groups.values()]
    told = [[key for key in keys if key in own[_names_of(run, names)]] for run in firsts]
    return [_row(group, keys_of_row) for group, keys_of_row in zip(groups.values(), told, strict=True)]


def _own_keys(runs: Sequence[ComparedRun], names: Sequence[str]) -> dict[tuple[str | None, ...], set[str]]:
    """Return names to the keys that tell their rows: what varies among runs of other names says nothing about them."""
    namesakes: dict[tuple[str | None, ...], list[Mapping[str, str]]] = {}
    for run in runs:
        namesakes.setdefault(_names_of(run, names), []).append(run.settings)
    return {values: {*names, *telling_keys(settings)} for values, settings in namesakes.items()}


def _names_of(run: ComparedRun, names: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(run.settings.get(key) for key in names)


def _row(group: Mapping[Pair, Sequence[ComparedRun]], keys: Sequence[str]) -> ComparedRow:
    latest = tuple(runs[-1] for _, runs in sorted(group.items()))
    repeats = tuple(run for runs in group.values() for run in runs[:-1])
    first = latest[0]
    settings = {key: first.settings[key] for key in keys if key in first.settings}
    told = {key: value for key, value in settings.items() if value != SEED_MARK and (key, value) != (ROW, "null")}
    name = " ".join(value if key == ROW else f"{_last_name(key)}={value}" for key, value in told.items())
    alone = f"{first.settings['task.name']} {first.settings['model.name']}"
    names = names_of_metrics([run.job for run in latest])
    values = {name: [run.job.metrics[name] for run in latest if name in run.job.metrics] for name in names}
    statistics = {name: statistic(found) for name, found in values.items()}
    return ComparedRow(name or alone, settings, latest, repeats, statistics)


def _last_name(key: str) -> str:
    """Return what tells a setting in a row's name: its last word, of a run that is started from all of it."""
    name = setting_name(key)
    return name if start_of(key) is not None else name.rpartition(".")[2]


def _rank(row: ComparedRow, metric: str, smaller: bool) -> float:
    """Return what sorts the best row first, and rows without the metric last."""
    mean = row.metrics[metric].mean if metric in row.metrics else math.nan
    if math.isnan(mean):
        return math.inf
    return mean if smaller else -mean


def _check_row(key: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        listed = "".join(f"\n  '{one}'" for one in dict.fromkeys(names))
        raise UserError(f"{key}={name}: no row is called so; choices:{listed}")


def _check_published(figure: PublishedFigure, boards: Sequence[Board]) -> None:
    """Refuse a figure whose row is nowhere, or on the boards of several data sets without saying whose it is."""
    data = [board.data for board in boards]
    if figure.data and figure.data not in data:
        raise UserError(f"published={figure.row}: no runs are of data={figure.data}; choices: {', '.join(data)}")
    _check_row("published", figure.row, [row.name for board in boards for row in board.rows])
    places = [board.data for board in boards if any(figure.stands_beside(row.name, board.data) for row in board.rows)]
    if len(places) > 1:
        raise UserError(
            f"published={figure.row}: rows of {' and '.join(places)} are called so; say whose figure it is in a fifth "
            "column, row,metric,value,source,data"
        )
    if not places:
        raise UserError(f"published={figure.row}: no row of data={figure.data} is called so")


def _differences(rows: Sequence[ComparedRow], metric: str, baseline: str | None) -> list[Difference]:
    """Compare the rows of one data with their baseline."""
    against = next((row for row in rows if row.name == baseline), rows[0])
    found = [_difference(row, against, metric) for row in rows if row is not against]
    adjusted = holm([math.nan if one.paired is None else one.paired.t_p for one in found])
    return [
        Difference(one.row, one.baseline, one.paired, p, one.other_splits)
        for one, p in zip(found, adjusted, strict=True)
    ]


def _difference(row: ComparedRow, baseline: ComparedRow, metric: str) -> Difference:
    first, second = row.values(metric), baseline.values(metric)
    common = sorted(set(first) & set(second))
    if not common:
        return Difference(row, baseline, None)
    paired = paired_difference([first[pair] for pair in common], [second[pair] for pair in common])
    splits = [{run.pair: run.job.result.fingerprint for run in one.runs if run.job.result} for one in (row, baseline)]
    other = any(splits[0][pair] != splits[1][pair] for pair in common)
    return Difference(row, baseline, paired, other_splits=other)
