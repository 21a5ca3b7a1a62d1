"""The comparison of runs as text: sections in Markdown, tables as CSV and LaTeX, the dated log of runs."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import TYPE_CHECKING

from records.circumstances import circumstance_rows
from records.comparison import Board, ComparedRow, Comparison, Difference, command_of
from records.markdown import inline, table
from records.metric_names import interval_of, is_count, title_of
from records.run_settings import ROW, setting_name
from records.sweep_summary import TEST_LEAK, TRANSDUCTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from records.comparison import ComparedRun

_DAGGER, _DOUBLE_DAGGER = r"$^\dagger$", r"$^\ddagger$"
_LATEX_SIGNS = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_LATEX_SIGNS |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def board_section(board: Board) -> str:
    """Return the table of one data set, the best row first, with the note that says how to read it."""
    sources = "\n".join(f"{number}. {source}" for number, source in enumerate(_sources(board), start=1))
    told = f"\n\nPublished figures are others', from\n\n{sources}" if sources else ""
    return f"## {board.data}\n\n{table(_head(board), _board_rows(board))}\n\n{_board_note(board)}{told}"


def _board_note(board: Board) -> str:
    direction = "the smallest" if board.smaller_is_better else "the largest"
    note = (
        f"Ranked by `{board.metric}`, {direction} first. Mean ± half of Student's 95 % interval over seeds and folds; "
        "[low, high] of a single run is its own interval over the test samples. Fractions, not percent."
    )
    repeats = sum(len(row.repeats) for row in board.rows)
    if repeats:
        note += f" Not counted: {repeats} earlier run(s) of a seed that was run again."
    transductive = [row.name for row in board.rows if row.is_transductive]
    leaked = [row.name for row in board.rows if row.chose_on_test]
    for told, rows in ((TRANSDUCTIVE, transductive), (TEST_LEAK, leaked)):
        if rows:
            note += f" {told}: {', '.join(f'`{name}`' for name in rows)}."
    if board.metric.startswith("test/") and len(board.rows) > 1:
        note += " The order is for reading: a choice between rows belongs to a validation part."
    return note


def differences(board: Board) -> str:
    """Return the paired differences from the baseline as a table, and one sentence on each; empty for a single row.

    Where no row has two pairs, chance cannot be told from any difference, which is all that is said then.
    """
    if not board.differences:
        return ""
    if not board.tested:
        return f"### {board.data}: differences\n\n{_untested(board)}"
    rows = [_difference_cells(board, one) for one in board.differences]
    head = ("row", "pairs", "difference", "better : worse", "t test p", "after Holm", "sign test p")
    sentences = "\n".join(f"- {statement(board, one)}" for one in board.differences)
    note = (
        f"`{board.metric}`, row minus `{board.differences[0].baseline.name}`, of runs with the same seed and fold; "
        "± half of Student's 95 % interval. Two-sided p of the paired t test, corrected after Holm for all rows, and "
        f"of the exact sign test, which cannot fall below 2 / 2^n of n pairs. Significant: p after Holm below "
        f"{board.level:g}."
    )
    return f"### {board.data}: differences\n\n{table(head, rows)}\n\n{note}\n\n{sentences}"


def _untested(board: Board) -> str:
    text = (
        f"No row shares two seeds with `{board.differences[0].baseline.name}`, so chance cannot be told from a "
        "difference: sweep over several seeds to compare."
    )
    others = ", ".join(f"`{one.row.name}`" for one in board.differences if one.other_splits)
    return f"{text} Other lists of samples than that row's: {others}." if others else text


def statement(board: Board, difference: Difference) -> str:
    """Say in one sentence whether a row differs from its baseline, and on what ground."""
    pair = f"`{difference.row.name}` against `{difference.baseline.name}`"
    found = difference.paired
    if found is None:
        return f"{pair}: no seed in common, so no statement."
    if math.isnan(found.mean):
        return f"{pair}: a value is not a number, so no statement."
    size = f"{abs(found.mean):.4f}"
    word = "the same" if found.mean == 0 else "better" if board.is_better(found.mean) else "worse"
    told = "the same" if found.mean == 0 else f"{word} by {size}"
    caution = _caution(difference)
    if math.isnan(found.t_p):
        why = "one pair" if found.count == 1 else f"all {found.count} differences are equal"
        return f"{pair}: {told}; {why}, so chance cannot be told from it.{caution}"
    significant = difference.adjusted_p < board.level
    verdict = "significant" if significant else "not significant"
    return (
        f"{pair}: {told} ± {found.half_width:.4f} in {found.count} pairs, {verdict} at {board.level:g} "
        f"(paired t test p {_p(found.t_p)}, after Holm {_p(difference.adjusted_p)}; sign test p {_p(found.sign_p)})."
        f"{caution}"
    )


def _caution(difference: Difference) -> str:
    """Say what beside the method differs between a row and its baseline, in sentences behind a blank."""
    text = " The lists of samples differ between the two." if difference.other_splits else ""
    if difference.row.is_transductive != difference.baseline.is_transductive:
        text += " One of the two is transductive, its fit saw the unlabelled test images."
    return text


def circumstances(board: Board, is_place: Callable[[str], bool]) -> str:
    """Return protocol, hardware, versions, commits and dates of what is compared, and the command of every row."""
    results = [result for row in board.rows for result in row.results]
    commands = "\n".join(command_of(row, is_place) for row in board.rows)
    told = "One for each row, in their order" + ("; PLACE stands for a path" if "=PLACE" in commands else "")
    return (
        f"### {board.data}: protocol, hardware, commands\n\n{table(('', ''), circumstance_rows(results))}\n\n"
        f"{told}:\n\n```sh\n{commands}\n```"
    )


def log(comparison: Comparison) -> str:
    """Return the dated log: one line for each run, whatever became of it, the latest first."""
    metrics = {board.data: board.metric for board in comparison.boards}
    lines = [_log_line(run, metrics) for run in reversed(comparison.runs)]
    return "## Log\n\n" + "\n".join(f"- {line}" for line in lines)


def failures(comparison: Comparison) -> str:
    """Return what did not complete, and why; empty where all did."""
    lost = [run for run in comparison.runs if not run.job.completed]
    if not lost:
        return ""
    rows = [(f"`{run.job.name}`", inline(run.job.failure or "still running, or killed")) for run in lost]
    return f"## Not compared\n\n{table(('run', 'why'), rows)}"


def as_csv(comparison: Comparison) -> str:
    """Return all boards with every metric: settings, `NAME mean`, `NAME std`, `NAME ci95`, `NAME runs`.

    `transductive` is `yes` where a fit saw the unlabelled images of the test part.
    Numbers are written so that reading them gives the same bits; what there is no value for is empty.
    """
    keys = list(dict.fromkeys(key for board in comparison.boards for key in board.keys))
    metrics = list(dict.fromkeys(metric for board in comparison.boards for metric in board.metrics))
    columns = [f"{metric} {kind}" for metric in metrics for kind in ("mean", "std", "ci95", "runs")]
    rows: list[Sequence[object]] = [["data", "rank", "row", *map(setting_name, keys), "transductive", "runs", *columns]]
    for board in comparison.boards:
        for rank, row in enumerate(board.rows, start=1):
            settings = [row.settings.get(key, "") for key in keys]
            numbers = [number for metric in metrics for number in _csv_numbers(row, metric)]
            seen = _yes_or_no(row.is_transductive)
            rows.append([board.data, rank, row.name, *settings, seen, len(row.runs), *numbers])
    return _csv(rows)


def differences_csv(comparison: Comparison) -> str:
    """Return the paired differences as CSV; what cannot be told is empty."""
    head = ["data", "row", "baseline", "metric", "pairs", "difference", "ci95", "wins", "losses", "t_p", "holm_p"]
    rows: list[Sequence[object]] = [[*head, "sign_p", "other_splits", "transductive", "baseline_transductive"]]
    for board in comparison.boards:
        for one in board.differences:
            seen = [_yes_or_no(row.is_transductive) for row in (one.row, one.baseline)]
            rows.append([board.data, one.row.name, one.baseline.name, board.metric, *_difference_numbers(one), *seen])
    return _csv(rows)


def _difference_numbers(difference: Difference) -> list[object]:
    found = difference.paired
    if found is None:
        return [0, *[""] * 8]
    numbers = [_exact(number) for number in (found.mean, found.half_width)]
    chances = [_exact(number) for number in (found.t_p, difference.adjusted_p, found.sign_p)]
    return [found.count, *numbers, found.wins, found.losses, *chances, difference.other_splits]


def runs_csv(comparison: Comparison) -> str:
    """Return every run as a line of CSV, the earliest first: when, what, how it ended, and every metric."""
    head = ["started", "status", "task", "model", "data", "seed", "transductive", "fold", "seconds", "run"]
    names = list(dict.fromkeys(name for run in comparison.runs for name in run.job.metrics))
    rows: list[Sequence[object]] = [[*head, *names]]
    for run in comparison.runs:
        result = run.job.result
        if result is None:
            rows.append(["", "unreadable", *[""] * (len(head) - 3), run.job.name])
            continue
        values = [_exact(run.job.metrics[name]) if name in run.job.metrics else "" for name in names]
        what = [result.started, result.status, result.task, result.model, result.data, result.seed]
        what.append(_yes_or_no(result.is_transductive))
        rows.append([*what, run.fold, result.seconds["whole"], run.job.name, *values])
    return _csv(rows)


def as_latex(comparison: Comparison) -> str:
    r"""Return a LaTeX table (package booktabs) for each data set, the best mean of the ranking metric bold.

    Rows whose fit saw the unlabelled images of the test part have a dagger, rows whose settings were chosen on its
    labels a double one; a line below the table explains them.
    """
    return "\n".join(f"% {board.data}\n{_latex_board(board)}" for board in comparison.boards)


def _latex_board(board: Board) -> str:
    metrics = board.shown
    keys = [_latex(setting_name(key)) for key in board.keys] or ["row"]
    lines = [r"\begin{tabular}{" + "l" * len(keys) + "r" + "c" * len(metrics) + "}", r"\toprule"]
    lines += [_latex_line([*keys, "runs", *map(_latex, metrics)]), r"\midrule"]
    for rank, row in enumerate(board.rows, start=1):
        cells = [_latex_cell(row, metric, rank == 1 and metric == board.metric) for metric in metrics]
        first, *settings = [_latex(row.settings.get(key, "")) for key in board.keys] or [_latex(row.name)]
        marks = (_DAGGER if row.is_transductive else "") + (_DOUBLE_DAGGER if row.chose_on_test else "")
        lines.append(_latex_line([f"{first}{marks}", *settings, str(len(row.runs)), *cells]))
    lines.append(r"\bottomrule")
    width = len(keys) + 1 + len(metrics)
    lines += [_latex_line([rf"\multicolumn{{{width}}}{{l}}{{{text}}}"]) for text in _latex_marks(board)]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _latex_marks(board: Board) -> Iterator[str]:
    """Explain the daggers that are there."""
    if any(row.is_transductive for row in board.rows):
        yield f"{_DAGGER} transductive: the fit saw the unlabelled test images"
    if any(row.chose_on_test for row in board.rows):
        yield f"{_DOUBLE_DAGGER} settings chosen on the labels of the test part"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(row: ComparedRow, metric: str, is_best: bool) -> str:
    found = row.metrics.get(metric)
    if found is None or not math.isfinite(found.mean):
        return "--"
    mean = rf"\mathbf{{{found.mean:.4f}}}" if is_best else f"{found.mean:.4f}"
    return f"${mean}$" if math.isnan(found.half_width) else rf"${mean} \pm {found.half_width:.4f}$"


def _latex(text: str) -> str:
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in text)


def _head(board: Board) -> list[str]:
    published = [f"published {title_of(metric)}" for metric in _published_metrics(board)]
    return ["", *(f"`{setting_name(key)}`" for key in board.keys), "runs", *board.shown, *published]


def _board_rows(board: Board) -> list[list[str]]:
    return [
        [
            str(rank),
            *(_setting_cell(row, key) for key in board.keys),
            str(len(row.runs)),
            *(_cell(row, metric) for metric in board.shown),
            *(_published_cell(board, row, metric) for metric in _published_metrics(board)),
        ]
        for rank, row in enumerate(board.rows, start=1)
    ]


def _setting_cell(row: ComparedRow, key: str) -> str:
    if key not in row.settings:
        return ""
    return inline(row.settings[key]) if key == ROW else f"`{row.settings[key]}`"


def _published_metrics(board: Board) -> list[str]:
    return list(dict.fromkeys(one.metric for one in board.published))


def _published_cell(board: Board, row: ComparedRow, metric: str) -> str:
    """Return the published figures of a row, each with the number of its source."""
    sources = _sources(board)
    figures = [one for one in board.published if (one.row, one.metric) == (row.name, metric)]
    return "; ".join(f"{one.value:g} [{sources.index(one.source) + 1}]" for one in figures)


def _sources(board: Board) -> list[str]:
    return list(dict.fromkeys(one.source for one in board.published))


def _cell(row: ComparedRow, metric: str) -> str:
    found = row.metrics.get(metric)
    if found is None:
        return ""
    mean = f"{found.mean:,.1f}" if is_count(metric) else f"{found.mean:.4f}"
    if found.count > 1:
        return mean if math.isnan(found.half_width) else f"{mean} ± {found.half_width:.4f}"
    interval = interval_of(metric, row.runs[0].job.metrics)
    return mean if interval is None else f"{mean} [{interval[0]:.4f}, {interval[1]:.4f}]"


def _difference_cells(board: Board, difference: Difference) -> list[str]:
    name = f"`{difference.row.name}`"
    found = difference.paired
    if found is None:
        return [name, "0", *[""] * 5]
    size = f"{found.mean:+.4f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.4f}")
    better, worse = (found.losses, found.wins) if board.smaller_is_better else (found.wins, found.losses)
    chances = [_p(value) for value in (found.t_p, difference.adjusted_p, found.sign_p)]
    return [name, str(found.count), size, f"{better} : {worse}", *chances]


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _log_line(run: ComparedRun, metrics: Mapping[str, str]) -> str:
    result = run.job.result
    if result is None:
        return f"`{run.job.name}`: {inline(run.job.problem)}"
    what = f"{result.task}, {result.model}, {result.data}, seed {result.seed}"
    metric = metrics.get(result.data, "")
    value = run.job.metrics.get(metric)
    outcome = result.status if value is None else f"{metric} {value:.4f}"
    if run.job.failure:
        outcome = f"{result.status}: {inline(result.reason or 'no reason recorded')}"
    when = re.sub(r"T(\d\d:\d\d).*", r" \1", result.started)
    return f"{when} **{outcome}** {what}, {result.seconds['whole'] / 60:.1f} min, `{run.job.name}`"


def _csv_numbers(row: ComparedRow, metric: str) -> list[object]:
    found = row.metrics.get(metric)
    if found is None:
        return ["", "", "", 0]
    return [_exact(found.mean), _exact(found.deviation), _exact(found.half_width), found.count]


def _yes_or_no(flag: bool) -> str:
    return "yes" if flag else "no"


def _exact(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
