"""The pictures of a comparison: every row with its runs and interval, paired differences, curves by epoch."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from records.canvas import BLUE, INK, VERMILLION, Picture, canvas, headline, shortened
from records.figures import MAX_SWEEP_ROWS, series_by_epoch, sweep_picture
from records.metric_names import bare, is_count, title_of
from records.metrics_file import read_rows
from records.run_directory import RunDirectory, stage_directories

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from records.comparison import Board, ComparedRow, Difference

NAME_LENGTH = 44
MAX_PANELS = 24
PANELS_ACROSS = 4
LOSS = "loss"
_PARTS = {
    "train": ("#777777", "training images as seen while they were trained on (grey)"),
    "val": (BLUE, "the validation part (blue)"),
}


def comparison_picture(board: Board) -> Picture:
    """Draw the ranking metric of every row: its runs, their mean and the 95 % interval, the best row on top."""
    rows = [
        (shortened(row.name, NAME_LENGTH), list(row.values(board.metric).values()), found.mean, found.half_width)
        for row in board.rows
        if (found := row.metrics.get(board.metric)) is not None
    ]
    unit = "" if is_count(board.metric) else " (fraction)"
    return sweep_picture(rows, metric=board.metric + unit, title=f"{board.data}: runs, mean and 95 % interval")


def differences_picture(board: Board) -> Picture | None:
    """Draw each row's paired difference from its baseline: every pair, the mean, its 95 % interval; better is right.

    Rows without a pair are left out; None where no row has two, so that chance cannot be told. A significant difference
    is a filled dot, any other an open one.
    """
    shown = [one for one in board.differences if one.paired is not None][:MAX_SWEEP_ROWS]
    if not board.tested:
        return None
    sign = "smaller is better" if board.smaller_is_better else "larger is better"
    with canvas(8.6, 2.0 + 0.5 * len(shown)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1.4, zorder=1)
        for place, one in enumerate(shown):
            assert one.paired is not None
            significant = one.adjusted_p < board.level
            pairs = _pairs(one, board.metric)
            axes.plot(pairs, [place] * len(pairs), "|", color=BLUE, ms=11, mew=1.8, alpha=0.8, zorder=2)
            spread = 0.0 if math.isnan(one.paired.half_width) else one.paired.half_width
            face = VERMILLION if significant else "white"
            axes.errorbar(
                one.paired.mean,
                place,
                xerr=spread,
                fmt="o",
                ms=8,
                color=VERMILLION,
                mfc=face,
                mew=1.8,
                capsize=4,
                zorder=3,
            )
        axes.set_yticks(range(len(shown)), [shortened(one.row.name, NAME_LENGTH) for one in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        if board.smaller_is_better:
            axes.invert_xaxis()
        axes.set_xlabel(f"difference of {board.metric} (fraction)\n{sign}, better is to the right")
        title = f"{board.data}: differences from {shortened(shown[0].baseline.name, NAME_LENGTH)}"
        headline(figure, title)
    description = (
        f"{board.metric} of each row minus its baseline's: every pair of equal seed and fold (blue line), their "
        f"mean (dot) and its 95 % interval (Student's t). A filled dot is significant at {board.level:g} after "
        "Holm's correction, an open one is not."
    )
    return Picture(figure, title, description)


def _pairs(difference: Difference, metric: str) -> list[float]:
    first, second = difference.row.values(metric), difference.baseline.values(metric)
    return [first[pair] - second[pair] for pair in sorted(set(first) & set(second))]


@dataclass(frozen=True)
class _Panel:
    """The curves of a row, a line for each run and part: (part, [(epoch, value)]); `name` is what they are of."""

    row: ComparedRow
    name: str
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]]


def curves_picture(board: Board) -> Picture | None:
    """Draw how every row was trained: a metric by epoch of training and validation, a panel for each row.

    It is the ranking metric, or the first of the table's that has curves; a row without it shows its training loss.
    A line is a run; the dashed line is the mean of the metric on the test part. Rows without two epochs, such as those
    that are fitted at once, are left out; None where that is every row.
    """
    metrics = dict.fromkeys([board.metric, *board.shown])
    metric = next((one for one in metrics if any(_curves(row, bare(one)) for row in board.rows)), board.metric)
    panels = [panel for row in board.rows if (panel := _panel(row, bare(metric)))][:MAX_PANELS]
    if not panels:
        return None
    columns = min(PANELS_ACROSS, len(panels))
    lines = math.ceil(len(panels) / columns)
    measured = [panel for panel in panels if panel.name != LOSS]
    title = f"{board.data}: {title_of(metric) if measured else 'training loss'} by epoch"
    with canvas(3.3 * columns + 0.4, 2.5 * lines + 0.9) as figure:
        axes = [figure.add_subplot(lines, columns, place) for place in range(1, len(panels) + 1)]
        for panel, place in zip(panels, axes, strict=True):
            _draw_panel(place, panel, panel.row.metrics[metric].mean if panel in measured else None)
        _share_limits([place for panel, place in zip(panels, axes, strict=True) if panel in measured])
        figure.supxlabel("Epoch", fontsize=12)
        headline(figure, title)
    return Picture(figure, title, _curves_description(panels, measured, metric))


def _panel(row: ComparedRow, name: str) -> _Panel | None:
    for one in (name, LOSS):
        if curves := _curves(row, one):
            return _Panel(row, one, curves)
    return None


def _curves(row: ComparedRow, name: str) -> list[tuple[str, list[tuple[int, float]]]]:
    found = []
    for run in row.runs:
        series = _series(run.folder)
        found += [(part, series[f"{part}/{name}"]) for part in _PARTS if f"{part}/{name}" in series]
    return found


def _series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (epoch, value) of what a run, or every stage of it, measured; a stage's epochs follow the one's before."""
    files = [RunDirectory(place).metrics for place in stage_directories(folder) or [folder]]
    stages = [series_by_epoch(read_rows(file)) for file in files if file.is_file()]
    whole: dict[str, list[tuple[int, float]]] = {}
    before = 0
    for series in stages:
        for name in series:
            if all(name in one for one in stages):
                whole.setdefault(name, []).extend((before + epoch, value) for epoch, value in series[name])
        before += 1 + max((points[-1][0] for points in series.values()), default=-1)
    return whole


def _draw_panel(axes: Axes, panel: _Panel, reached: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for part, points in panel.curves:
        axes.plot(*zip(*points, strict=True), color=_PARTS[part][0], linewidth=1.8)
    if reached is not None:
        axes.axhline(reached, color=VERMILLION, linewidth=1.6, linestyle="dashed")
    axes.set_title("\n".join(textwrap.wrap(panel.row.name, 26)[:2]), fontsize=11)
    axes.set_ylabel(title_of(panel.name), fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _share_limits(axes: Sequence[Axes]) -> None:
    limits = [place.get_ylim() for place in axes]
    for place in axes:
        place.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _curves_description(panels: Sequence[_Panel], measured: Sequence[_Panel], metric: str) -> str:
    parts = {part for panel in panels for part, _ in panel.curves}
    seen = " and ".join(meaning for part, (_, meaning) in _PARTS.items() if part in parts)
    text = f"By epoch on {seen}, a line for each run."
    if measured:
        text += f" Dashed: the mean of {metric} of the row."
    if measured and len(measured) < len(panels):
        text += f" Rows that do not measure {title_of(metric)} while they train show their training loss."
    return text
