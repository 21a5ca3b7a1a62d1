"""The pictures of a classifier: recall of every class, means of recalls by epoch, confusions, calibration.

Pure drawing, as in `records.figures`: each function takes numbers and gives a `Picture`, and imports what is heavy
when it is called. Classes are ordered by their training images, the most frequent first, so that a long tail reads
from left to right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from records.canvas import BLUE, INK, VERMILLION, Picture, canvas, headline, shortened
from records.figures import series_by_epoch
from records.metrics_file import read_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

CURVES = {"accuracy": "Accuracy", "gm": "Geometric mean", "hm": "Harmonic mean", "lowest_recall": "Lowest recall"}
PART_COLOURS = {"train": "#777777", "val": BLUE, "test": VERMILLION}

# More classes than this are numbered on the axis, and not named.
MAX_NAMED = 25
# Cells of larger tables are too small for their number.
MAX_WRITTEN = 12


def order_by_frequency(class_counts: Sequence[int]) -> NDArray[np.int64]:
    """Return the classes with the most training images first, (C,); equally frequent ones in label order."""
    import numpy as np

    return np.argsort(-np.asarray(class_counts), kind="stable")


def recall_picture(
    recalls: NDArray[np.float64],
    class_names: Sequence[str],
    class_counts: Sequence[int] | None = None,
    *,
    before: NDArray[np.float64] | None = None,
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
    title: str | None = None,
    description: str | None = None,
) -> Picture:
    """Draw the recall of every class as a bar, the most frequent class first, with the training images below.

    Args:
        recalls: (C,) in [0, 1]; NaN for a class without samples, which is marked.
        class_names: C names.
        class_counts: training images of each class; None orders by label.
        before: recalls of an earlier classifier, drawn as a line across each bar.
        groups: name to bool (C,), adjacent classes in this order; each is named over its bars with its mean recall.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: the numbers of classes differ.
    """
    import numpy as np

    size = len(recalls)
    given = {"class_names": class_names, "class_counts": class_counts, "before": before}
    wrong = [f"{name} has {len(part)}" for name, part in given.items() if part is not None and len(part) != size]
    if wrong:
        raise ValueError(f"there are {size} recalls, and {', '.join(wrong)}")
    order = np.arange(size) if class_counts is None else order_by_frequency(class_counts)
    title = title or ("Recall of every class" if before is None else "Recall of every class, before and after")
    description = description or _recall_sentence(recalls, class_counts is not None, before)
    with canvas(12.0, 5.6 if class_counts is not None else 4.6) as figure:
        axes: Axes
        if class_counts is None:
            axes = figure.add_subplot()
            lowest = axes
        else:
            axes, lowest = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
            _draw_counts(lowest, np.asarray(class_counts)[order])
        _draw_bars(axes, recalls[order], None if before is None else before[order])
        if groups is not None:
            _name_groups(axes, recalls[order], {name: group[order] for name, group in groups.items()})
        _name_classes(lowest, [class_names[label] for label in order], class_counts is not None)
        headline(figure, title)
        if before is not None:
            # beside the title: no place inside the panel is free of every bar
            figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=12)
    return Picture(figure, title, description)


def _recall_sentence(recalls: NDArray[np.float64], by_count: bool, before: NDArray[np.float64] | None) -> str:
    import numpy as np

    known = recalls[~np.isnan(recalls)]
    text = (
        f"Share of each class's samples that were classified right; the mean over {len(known)} classes is "
        f"{known.mean():.3f}, the lowest {known.min():.3f}"
    )
    text += f", and {int((known == 0).sum())} are at zero." if (known == 0).any() else "."
    if len(known) < len(recalls):
        text += f" {len(recalls) - len(known)} classes without samples are marked by a cross."
    if before is not None:
        both = ~np.isnan(recalls) & ~np.isnan(before)
        better, worse = int((recalls > before)[both].sum()), int((recalls < before)[both].sum())
        text += (
            f" Lines across the bars are the recalls before, {before[both].mean():.3f} in the mean and "
            f"{before[both].min():.3f} at the lowest: {better} classes rose, {worse} fell."
        )
    return text + (" The most frequent class in training comes first." if by_count else "")


def _draw_bars(axes: Axes, recalls: NDArray[np.float64], before: NDArray[np.float64] | None) -> None:
    import numpy as np

    places = np.arange(len(recalls))
    known = ~np.isnan(recalls)
    axes.bar(places[known], recalls[known], width=0.82, color=BLUE, alpha=0.75, label="after")
    # an unclipped line without points would claim the figure's corner in the layout
    if not known.all():
        axes.plot(places[~known], np.zeros((~known).sum()), "x", color=INK, ms=7, mew=1.8, clip_on=False)
    if before is not None:
        axes.hlines(before, places - 0.46, places + 0.46, color=VERMILLION, linewidth=2.2, label="before", zorder=3)
    axes.set(ylim=(0, 1.02), xlim=(-0.7, len(recalls) - 0.3), ylabel="Recall (fraction)")
    axes.grid(visible=False, axis="x")


def _name_groups(axes: Axes, recalls: NDArray[np.float64], groups: Mapping[str, NDArray[np.bool_]]) -> None:
    import numpy as np

    for name, group in groups.items():
        places = np.flatnonzero(group)
        if not len(places):
            continue
        known = recalls[places][~np.isnan(recalls[places])]
        mean = f" {known.mean():.3f}" if len(known) else ""
        axes.text((places[0] + places[-1]) / 2, 1.035, f"{name}{mean}", ha="center", fontsize=11.5, color=INK)
        if places[0] > 0:
            axes.axvline(places[0] - 0.5, color="#999999", linewidth=1.2, linestyle="dashed")


def _draw_counts(axes: Axes, counts: NDArray[np.int64]) -> None:
    import numpy as np
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.bar(np.arange(len(counts)), counts, width=0.82, color="#AAAAAA")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(ylim=(0.5, max(counts.max() * 1.6, 2)), ylabel="Training\nimages")
    axes.grid(visible=False, axis="x")


def _name_classes(axes: Axes, names: Sequence[str], by_count: bool) -> None:
    if len(names) <= MAX_NAMED:
        longest = max(len(name) for name in names)
        slanted = longest * len(names) > 110
        axes.set_xticks(range(len(names)), [shortened(name, 16) for name in names])
        if slanted:
            axes.tick_params(axis="x", labelrotation=45)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_xlabel("Class")
        return
    axes.set_xlabel("Classes, the most frequent in training first" if by_count else "Classes, in label order")


def recall_curves_picture(
    metrics: str | os.PathLike[str],
    *,
    title: str = "Accuracy and means of recalls by epoch",
    description: str | None = None,
) -> Picture | None:
    """Draw accuracy, geometric mean, harmonic mean and lowest recall by epoch, one panel each, from a metrics.csv.

    Returns:
        The picture; None when the table holds fewer than two epochs of all of them.
    """
    series = series_by_epoch(read_rows(metrics))
    panels = {
        name: {part: series[f"{part}/{name}"] for part in PART_COLOURS if f"{part}/{name}" in series} for name in CURVES
    }
    shown = {name: curves for name, curves in panels.items() if curves}
    if not shown:
        return None
    parts = list(dict.fromkeys(part for curves in shown.values() for part in curves))
    meanings = {"train": "train as predicted while it was trained on", "val": "the validation part", "test": "test"}
    description = description or f"By epoch: {', '.join(meanings[part] for part in parts)}."
    columns = 2 if len(shown) > 1 else 1
    rows = math.ceil(len(shown) / columns)
    with canvas(6.0 * columns, 3.2 * rows + 0.6) as figure:
        for number, (name, curves) in enumerate(shown.items(), start=1):
            axes = figure.add_subplot(rows, columns, number)
            _draw_parts(axes, curves)
            axes.set_title(CURVES[name])
            if number > len(shown) - columns:
                axes.set_xlabel("Epoch")
            if number == 1:
                axes.legend(fontsize=11)
        headline(figure, title)
    return Picture(figure, title, description)


def _draw_parts(axes: Axes, curves: Mapping[str, list[tuple[int, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for part, points in curves.items():
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else None
        axes.plot(epochs, values, color=PART_COLOURS[part], marker=marker, ms=4, linewidth=2.2, label=part)
    axes.set(ylim=(-0.02, 1.02), ylabel="Fraction")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def confusion_picture(
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    class_counts: Sequence[int] | None = None,
    *,
    title: str = "Confusion matrix",
    description: str | None = None,
) -> Picture:
    """Draw which class (row) is taken for which (column), as shares of the row.

    Args:
        confusion: (C, C) int64, rows are true classes.
        class_names: C names.
        class_counts: training images of each class; None orders by label.
        title: caption in one line.
        description: caption in a sentence; None writes one.
    """
    import numpy as np
    from matplotlib.colors import PowerNorm

    order = np.arange(len(confusion)) if class_counts is None else order_by_frequency(class_counts)
    table = confusion[np.ix_(order, order)].astype(np.float64)
    samples = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, samples, out=np.full_like(table, np.nan), where=samples > 0)
    sorted_by = "label" if class_counts is None else "training images, the most frequent first"
    description = description or (
        f"Share of each true class (row) that was given each class (column); classes ordered by {sorted_by}. "
        "The colours are spread at the lower end, so that rare confusions show."
        + (" Grey rows have no sample." if np.isnan(shares).any() else "")
    )
    with canvas(8.2, 7.4) as figure:
        axes = figure.add_subplot()
        shading = axes.imshow(
            np.ma.masked_invalid(shares), cmap=_blues(), norm=PowerNorm(0.5, 0, 1), interpolation="none"
        )
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        names = [shortened(class_names[label]) for label in order]
        if len(names) <= MAX_NAMED:
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), names)
        if len(names) <= MAX_WRITTEN:
            _write_cells(axes, shares)
        rank = "" if class_counts is None or len(names) <= MAX_NAMED else ", by training images"
        axes.set(xlabel=f"Predicted class{rank}", ylabel=f"True class{rank}")
        figure.colorbar(
            shading, ax=axes, shrink=0.8, ticks=[0, 0.05, 0.1, 0.25, 0.5, 1], label="Share of the true class"
        )
        headline(figure, title)
    return Picture(figure, title, description)


def _blues() -> Colormap:
    from matplotlib import colormaps

    return colormaps["Blues"].with_extremes(bad="#CCCCCC")


def _write_cells(axes: Axes, shares: NDArray[np.float64]) -> None:
    import numpy as np

    for (row, column), share in np.ndenumerate(shares):
        if not math.isnan(share) and share >= 0.005:
            colour = "white" if share > 0.35 else INK
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=10.5, color=colour)


def reliability_picture(
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
    accuracy: NDArray[np.float64],
    confidence: NDArray[np.float64],
    expected_error: float,
    *,
    title: str = "Reliability diagram",
    description: str | None = None,
) -> Picture:
    """Draw accuracy over confidence, and how the samples are spread over the confidences.

    Args:
        edges: (B + 1,), limits of the bins, 0 to 1.
        counts: (B,), samples of each bin.
        accuracy: (B,); NaN where a bin is empty.
        confidence: (B,), mean confidence; NaN where a bin is empty.
        expected_error: expected calibration error, for the caption.
        title: caption in one line.
        description: caption in a sentence; None writes one.
    """
    import numpy as np

    filled = counts > 0
    surplus = float((counts[filled] * (confidence - accuracy)[filled]).sum() / counts.sum())
    tendency = "over-confident" if surplus > 0 else "under-confident"
    description = description or (
        f"Accuracy of the samples in each of {len(counts)} bins of confidence (bars), and their mean confidence "
        f"(rings); a calibrated classifier has both on the diagonal. Expected calibration error {expected_error:.3f}; "
        f"on the whole {tendency} by {abs(surplus):.3f}."
    )
    left, width = edges[:-1], np.diff(edges)
    with canvas(6.6, 7.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(
            left[filled], accuracy[filled], width[filled], align="edge", color=BLUE, alpha=0.75, edgecolor="white"
        )
        upper.plot([0, 1], [0, 1], color="#666666", linestyle="dashed", linewidth=1.5)
        middle = (left + width / 2)[filled]
        upper.vlines(middle, accuracy[filled], confidence[filled], color=VERMILLION, linewidth=2)
        upper.plot(middle, confidence[filled], "o", mfc="white", mec=VERMILLION, mew=2, ms=7, label="mean confidence")
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="Accuracy (fraction)")
        upper.legend(loc="upper left", fontsize=12)
        lower.bar(left, counts / counts.sum(), width, align="edge", color="#999999", edgecolor="white")
        lower.set(xlabel="Confidence", ylabel="Share of\nsamples")
        headline(figure, title)
    return Picture(figure, title, description)
