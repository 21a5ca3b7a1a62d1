"""The pictures of a comparison: every row with its runs and interval, and the paired differences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from records.figures import BLUE, INK, MAX_SWEEP_ROWS, VERMILLION, Picture, canvas, shortened, sweep_picture
from records.metric_names import is_count

if TYPE_CHECKING:
    from records.comparison import Board, Difference

NAME_LENGTH = 44


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

    Rows without a pair are left out; None where there is no other. A significant difference is a filled dot, any other
    an open one.
    """
    shown = [one for one in board.differences if one.paired is not None][:MAX_SWEEP_ROWS]
    if not shown:
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
        axes.set_xlabel(f"difference of {board.metric} (fraction; {sign}, better is to the right)")
        title = f"{board.data}: differences from {shortened(shown[0].baseline.name, NAME_LENGTH)}"
        axes.set_title(title, pad=10)
    description = (
        f"{board.metric} of each row minus its baseline's: every pair of equal seed and fold (blue line), their "
        f"mean (dot) and its 95 % interval (Student's t). A filled dot is significant at {board.level:g} after "
        "Holm's correction, an open one is not."
    )
    return Picture(figure, title, description)


def _pairs(difference: Difference, metric: str) -> list[float]:
    first, second = difference.row.values(metric), difference.baseline.values(metric)
    return [first[pair] - second[pair] for pair in sorted(set(first) & set(second))]
