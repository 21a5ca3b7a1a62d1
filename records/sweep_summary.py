"""The table of a sweep: mean, standard deviation and 95 % interval over seeds and folds, from the run records alone."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from records.atomic_file import write_text
from records.circumstances import circumstance_rows
from records.draws import read_draws, result_of
from records.errors import UserError
from records.html_page import as_html
from records.markdown import inline, table
from records.metric_names import HEADLINE
from records.override_set import override_settings, short_name, varying_keys
from records.result import Result, read_result
from records.run_directory import RunDirectory
from records.run_settings import flat_settings, read_configuration, without_seeds
from records.statistic import Statistic, statistic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AVERAGED_KEYS = ("seed", "data.fold")
MAX_TABLE_METRICS = 4
TRANSDUCTIVE = "Transductive, the fit saw the unlabelled test images"
TEST_LEAK = "No estimate of the accuracy on new images, settings were chosen on the labels of the test part"

SUMMARY_CSV, SUMMARY_PAGE, SUMMARY_PICTURE = "summary.csv", "summary.md", "summary.png"
SUMMARY_HTML = "summary.html"
SHOTS_KEY, SHOTS_PICTURE = "data.shots", "shots.png"


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep: `name` is its folder below the sweep's, `result` None where its record cannot be read."""

    name: str
    result: Result | None
    problem: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """What its overrides set."""
        return {} if self.result is None else override_settings(self.result.overrides)

    @property
    def completed(self) -> bool:
        """Whether it ran to its end."""
        return self.result is not None and self.result.status == "completed"

    @property
    def failure(self) -> str:
        """Why it did not run to its end; empty for a job that completed or still runs."""
        if self.result is None:
            return self.problem
        if self.result.status in ("completed", "running"):
            return ""
        return f"{self.result.status}: {self.result.reason or 'no reason recorded'}"

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics, and `best val/NAME`, the monitored value of its best epoch, where there is one."""
        if self.result is None:
            return {}
        monitor = self.result.monitor
        has_best = monitor is not None and monitor["value"] is not None
        best = {f"best {monitor['name']}": float(monitor["value"])} if monitor and has_best else {}
        return {**self.result.metrics, **best}


@dataclass(frozen=True)
class SummaryRow:
    """The jobs that differ in nothing but seed and fold, and the statistics of each metric over the completed ones."""

    settings: Mapping[str, str]
    jobs: tuple[SweepJob, ...]
    metrics: Mapping[str, Statistic]

    @property
    def name(self) -> str:
        """The settings in short, `bits=32`; "all" where nothing but seed and fold varies."""
        return short_name(self.settings, self.settings) or "all"

    @property
    def completed(self) -> int:
        """Number of jobs that ran to their end."""
        return sum(job.completed for job in self.jobs)

    @property
    def is_transductive(self) -> bool:
        """Whether a fit saw the unlabelled images of the test part."""
        return any(job.result is not None and job.result.is_transductive for job in self.jobs)

    @property
    def chose_on_test(self) -> bool:
        """Whether settings were chosen on the labels of the test part."""
        return any(job.result is not None and job.result.chose_on_test for job in self.jobs)


@dataclass(frozen=True)
class Summary:
    """The whole table: `keys` are the settings that vary between rows, `metrics` all names in order of interest."""

    keys: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    metrics: tuple[str, ...]

    @property
    def failed(self) -> list[SweepJob]:
        """The jobs that did not run to their end."""
        return [job for row in self.rows for job in row.jobs if job.failure]


def read_jobs(sweep: str | os.PathLike[str]) -> list[SweepJob]:
    """Read the record of every job below a sweep's folder, in the order of their numbers.

    What lies below a run (a test of it, say) is no job of the sweep. A damaged record is a job with a problem.
    """
    jobs = []
    for place, folders, files in os.walk(sweep):
        if "result.json" in files:
            folders.clear()
            jobs.append(_read_job(Path(place), Path(place).relative_to(sweep).as_posix()))
    return sorted(jobs, key=lambda job: _natural(job.name))


def draws_of(folder: Path, job: SweepJob) -> list[SweepJob]:
    """Return one job for each draw of a job that judged several (`mode=draws`), and any other job as it is."""
    if not job.completed or job.result is None:
        return [job]
    try:
        draws = read_draws(RunDirectory(folder).draws)
    except UserError as error:
        return [SweepJob(job.name, None, str(error))]
    whole = job.result
    return [SweepJob(f"{job.name}, seed {draw.seed}", result_of(draw, whole)) for draw in draws] or [job]


def summarise(jobs: Sequence[SweepJob]) -> Summary:
    """Return one row for each override set without seed and fold, in order of appearance."""
    keys = [key for key in varying_keys([job.settings for job in jobs]) if key not in AVERAGED_KEYS]
    groups: dict[tuple[tuple[str, str], ...], list[SweepJob]] = {}
    for job in jobs:
        chosen = tuple((key, job.settings[key]) for key in keys if key in job.settings)
        groups.setdefault(chosen, []).append(job)
    rows = tuple(SummaryRow(dict(chosen), tuple(members), _statistics(members)) for chosen, members in groups.items())
    return Summary(tuple(keys), rows, tuple(names_of_metrics(jobs)))


def as_csv(summary: Summary) -> str:
    """Return the table as CSV: settings, `transductive`, counts, `NAME mean`, `NAME std`, `NAME ci95`, reasons.

    `ci95` is half the width of the interval. Numbers are written so that reading them gives the same bits; what there
    is no value for is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{metric} {kind}" for metric in summary.metrics for kind in ("mean", "std", "ci95")]
    writer.writerow([*summary.keys, "transductive", "jobs", "completed", *columns, "failures"])
    for row in summary.rows:
        numbers = [number for metric in summary.metrics for number in _csv_numbers(row.metrics.get(metric))]
        failures = "; ".join(f"{job.name}: {inline(job.failure)}" for job in row.jobs if job.failure)
        settings = [row.settings.get(key, "") for key in summary.keys]
        seen = "yes" if row.is_transductive else "no"
        writer.writerow([*settings, seen, len(row.jobs), row.completed, *numbers, failures])
    return text.getvalue()


def as_page(
    summary: Summary, resume_command: str, repeat_command: str = "", settings: Mapping[str, str] | None = None
) -> str:
    """Return the page for people, in Markdown.

    Args:
        summary: the table, what failed and why, and the circumstances of what completed.
        resume_command: runs what is missing.
        repeat_command: runs all of it again; left out where it is not known.
        settings: what all jobs share.
    """
    jobs = [job for row in summary.rows for job in row.jobs]
    completed = sum(job.completed for job in jobs)
    running = len(jobs) - completed - len(summary.failed)
    repeats = completed - sum(len(_counted(row.jobs)) for row in summary.rows)
    counts = f"{completed} of {len(jobs)} started jobs completed, {len(summary.failed)} failed, {running} running."
    if repeats:
        counts += f" Not counted: {repeats} of a seed and settings that a later job has too."
    sections = [f"# Sweep\n\n{counts}", _page_table(summary), _page_failures(summary)]
    if _headline(summary):
        sections.append(f"![Sweep]({SUMMARY_PICTURE})")
    if series_over_shots(summary):
        sections.append(f"![Accuracy over shots]({SHOTS_PICTURE})")
    sections += [
        _page_circumstances(jobs),
        _page_settings(settings or {}),
        _page_commands(resume_command, repeat_command),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def write_summary(sweep: Path, resume_command: str, repeat_command: str = "") -> Summary:
    """Write summary.csv, summary.md, summary.html and, where a metric was measured, summary.png into a sweep's folder.

    Args:
        sweep: the folder.
        resume_command: runs what is missing.
        repeat_command: runs all of it again; left out where it is not known.

    Raises:
        OSError: the folder cannot be written.
    """
    jobs = read_jobs(sweep)
    summary = summarise([draw for job in jobs for draw in draws_of(sweep / job.name, job)])
    write_text(sweep / SUMMARY_CSV, as_csv(summary))
    page = as_page(summary, resume_command, repeat_command, shared_settings([sweep / job.name for job in jobs]))
    write_text(sweep / SUMMARY_PAGE, page)
    metric = _headline(summary)
    if metric:
        from records.figures import sweep_picture

        rows = [(row.name, _values(row.jobs, metric), row.metrics[metric]) for row in _measured(summary, metric)]
        sweep_picture(
            [(name, values, found.mean, found.half_width) for name, values, found in rows], metric=metric
        ).save(sweep / SUMMARY_PICTURE)
        series = series_over_shots(summary)
        if series:
            from records.fewshot_figures import shots_picture

            shots_picture(series, metric=metric).save(sweep / SHOTS_PICTURE)
    # last, because its pictures are in it
    write_text(sweep / SUMMARY_HTML, as_html(page, sweep))
    return summary


def series_over_shots(summary: Summary) -> dict[str, list[tuple[int, float, float]]]:
    """Return the first metric over the number of shots, for a sweep over `data.shots`; empty for any other.

    Each setting beside the shots has its points (shots, mean, half the width of the interval), shots rising; rows
    without a number of shots (`null`, the whole pool) are left out.
    """
    if SHOTS_KEY not in summary.keys or not _headline(summary):
        return {}
    metric = _headline(summary)
    series: dict[str, list[tuple[int, float, float]]] = {}
    for row in _measured(summary, metric):
        others = {key: value for key, value in row.settings.items() if key != SHOTS_KEY}
        shots, found = row.settings.get(SHOTS_KEY, ""), row.metrics[metric]
        if shots.isdigit():
            name = short_name(others, others) or metric
            series.setdefault(name, []).append((int(shots), found.mean, found.half_width))
    return {name: sorted(points) for name, points in series.items()}


def shared_settings(runs: Iterable[Path]) -> dict[str, str]:
    """Return the settings that are the same in all runs, from their config.yaml; those without one have no say."""
    found: list[dict[str, str]] = []
    for run in runs:
        try:
            found.append(flat_settings(read_configuration(RunDirectory(run).config)))
        except UserError:
            # a job that ended before it had a configuration is told with its reason
            continue
    told = without_seeds(found)
    first = told[0] if told else {}
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in told)}


def _read_job(folder: Path, name: str) -> SweepJob:
    try:
        return SweepJob(name, read_result(folder / "result.json"))
    except UserError as error:
        return SweepJob(name, None, str(error))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]


def _counted(jobs: Iterable[SweepJob]) -> list[SweepJob]:
    """Return the completed jobs of a row, one for each seed and fold: the last of those that a search drew twice."""
    last: dict[tuple[str, str], SweepJob] = {}
    for job in jobs:
        if job.completed and job.result is not None:
            last[job.settings.get("seed", str(job.result.seed)), job.settings.get("data.fold", "")] = job
    return list(last.values())


def _values(jobs: Iterable[SweepJob], metric: str) -> list[float]:
    return [job.metrics[metric] for job in _counted(jobs) if metric in job.metrics]


def _statistics(jobs: Sequence[SweepJob]) -> dict[str, Statistic]:
    values = {metric: _values(jobs, metric) for metric in names_of_metrics(jobs)}
    return {metric: statistic(found) for metric, found in values.items() if found}


def names_of_metrics(jobs: Iterable[SweepJob]) -> list[str]:
    """Name every metric of the completed jobs: the monitored one first, tests before validation."""
    completed = [job for job in jobs if job.completed]
    names = dict.fromkeys(name for job in completed for name in sorted(job.metrics))
    monitors = dict.fromkeys(job.result.monitor["name"] for job in completed if job.result and job.result.monitor)
    judged = [f"test/{name.partition('/')[2]}" for name in monitors] + [f"best {name}" for name in monitors]
    first = [name for name in dict.fromkeys([*judged, *(f"test/{name}" for name in HEADLINE)]) if name in names]
    others = [name for name in names if name not in first]
    return [*first, *sorted(others, key=lambda name: (not name.startswith("test/"), name))]


def _headline(summary: Summary) -> str:
    return summary.metrics[0] if summary.metrics else ""


def _measured(summary: Summary, metric: str) -> list[SummaryRow]:
    return [row for row in summary.rows if metric in row.metrics]


def _csv_numbers(found: Statistic | None) -> list[Any]:
    if found is None:
        return ["", "", ""]
    spread = ["" if found.count == 1 else repr(value) for value in (found.deviation, found.half_width)]
    return [repr(found.mean), *spread]


def _page_table(summary: Summary) -> str:
    if not summary.metrics:
        return "No job has completed yet."
    metrics = summary.metrics[:MAX_TABLE_METRICS]
    head = [*(f"`{key}`" for key in summary.keys), "jobs", *metrics, f"std of {metrics[0]}"]
    rows = []
    for row in summary.rows:
        cells = [_cell(row.metrics.get(metric)) for metric in metrics]
        deviation = _number(row.metrics[metrics[0]].deviation) if metrics[0] in row.metrics else ""
        settings = [f"`{row.settings[key]}`" if key in row.settings else "" for key in summary.keys]
        rows.append([*settings, f"{row.completed} of {len(row.jobs)}", *cells, deviation])
    note = (
        f"Mean ± half the 95 % interval (Student's t) of the completed jobs over {' and '.join(AVERAGED_KEYS)}; std is "
        f"the sample standard deviation. Fractions, not percent. All metrics: [{SUMMARY_CSV}]({SUMMARY_CSV})."
    )
    best = [metric for metric in metrics if metric.startswith("best val/")]
    if best and len(summary.rows) > 1:
        note += f" To choose between rows, take `{best[0]}`: a choice by the test part would flatter it."
    return f"{table(head, rows)}\n\n{note}{_seen_note(summary)}"


def _seen_note(summary: Summary) -> str:
    """Say which rows are of methods that saw images or labels of the test part: compare these with their own kind."""
    transductive = [row.name for row in summary.rows if row.is_transductive]
    leaked = [row.name for row in summary.rows if row.chose_on_test]
    notes = ((TRANSDUCTIVE, transductive), (TEST_LEAK, leaked))
    return "".join(f" {note}: {_named(rows, len(summary.rows))}." for note, rows in notes if rows)


def _named(rows: Sequence[str], count: int) -> str:
    return "all rows" if len(rows) == count else ", ".join(f"`{name}`" for name in rows)


def _page_failures(summary: Summary) -> str:
    if not summary.failed:
        return ""
    keys = varying_keys([job.settings for row in summary.rows for job in row.jobs])
    rows = [
        (f"[{job.name}]({job.name})", short_name(job.settings, keys), inline(job.failure)) for job in summary.failed
    ]
    return f"## Jobs that did not complete\n\n{table(('job', 'settings', 'why'), rows)}"


def _page_circumstances(jobs: Iterable[SweepJob]) -> str:
    results = [job.result for job in jobs if job.result is not None and job.completed]
    return f"## Protocol, data, environment\n\n{table(('', ''), circumstance_rows(results))}" if results else ""


def _page_settings(settings: Mapping[str, str]) -> str:
    if not settings:
        return ""
    rows = [(f"`{key}`", f"`{inline(value)}`") for key, value in settings.items()]
    note = "Shared by all jobs; `${seed}` follows the seed. The whole configuration of a job is its config.yaml."
    return f"## Settings\n\n{note}\n\n{table(('key', 'value'), rows)}"


def _page_commands(resume: str, repeat: str) -> str:
    again = f"\n\nRepeats the whole sweep:\n\n```sh\n{repeat}\n```" if repeat else ""
    return f"## Commands\n\nRuns only what is missing or failed:\n\n```sh\n{resume}\n```{again}"


def _cell(found: Statistic | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.4f}" if found.count == 1 else f"{found.mean:.4f} ± {_number(found.half_width)}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""
