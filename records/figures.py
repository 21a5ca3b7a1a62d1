"""The pictures of a run.

Pure drawing: each function takes numbers and pixels and gives a `Picture`. Hits and misses differ in sign and frame,
not in colour alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from records.canvas import BLUE, GREEN, INK, RED, SERIES, VERMILLION, Picture, canvas, headline, shortened, wrapped
from records.metric_names import bare, is_score
from records.metrics_file import KEY_COLUMNS, TIMING_COLUMNS, read_rows

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes


NEIGHBOURS = 8
MAX_SWEEP_ROWS = 40


def precision_recall_picture(
    precision: Sequence[float],
    recall: Sequence[float],
    *,
    bits: int,
    title: str = "Precision and recall by Hamming radius",
    description: str | None = None,
    marked_radii: Sequence[int] = (0, 1, 2, 3, 4),
) -> Picture:
    """Draw precision over recall of all items within Hamming radius 0, 1, ..., K of the query.

    Args:
        precision: K + 1 values in [0, 1], one per radius; NaN where no ball holds an item.
        recall: K + 1 values in [0, 1], not falling.
        bits: code length K, for the caption.
        title: caption in one line.
        description: caption in a sentence; None writes one.
        marked_radii: radii whose point is marked and named; those beyond K are left out.

    Raises:
        ValueError: `precision` and `recall` are not K + 1 values each.
    """
    if len(precision) != bits + 1 or len(recall) != bits + 1:
        raise ValueError(f"{bits} bits have {bits + 1} radii, got {len(precision)} precisions, {len(recall)} recalls")
    marked = [radius for radius in marked_radii if radius <= bits]
    description = description or (
        f"Mean over the queries of precision and recall among all items within Hamming radius "
        f"r = 0 ... {bits} of the query's {bits}-bit code; circles mark radii {', '.join(map(str, marked))}."
    )
    with canvas(7.2, 5.2) as figure:
        axes = figure.add_subplot()
        axes.plot(recall, precision, color=BLUE, linewidth=2.4, zorder=2, solid_joinstyle="round")
        axes.set(xlim=(-0.02, 1.03), ylim=(-0.02, 1.05), xlabel="Recall (fraction)", ylabel="Precision (fraction)")
        axes.set_title(wrapped(title), pad=12)
        _mark_radii(axes, precision, recall, marked)
        axes.legend(loc="lower left", fontsize=12)
    return Picture(figure, title, description)


def gallery_picture(
    query_images: np.ndarray,
    neighbour_images: np.ndarray,
    hit: np.ndarray,
    distances: np.ndarray,
    titles: Sequence[str],
    *,
    title: str = "Nearest pictures in the database",
    description: str | None = None,
) -> Picture:
    """Draw queries in the left column, each followed by its nearest pictures, hits and misses marked.

    A hit has a green frame and a tick, a miss a red dashed frame and a cross; below each stands its Hamming
    distance.

    Args:
        query_images: (n, 3, H, W) uint8.
        neighbour_images: (n, 8, 3, h, w) uint8, nearest first.
        hit: (n, 8) bool, whether the neighbour is relevant.
        distances: (n, 8) Hamming distances, whole numbers in [0, K].
        titles: n texts, the class of each query.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    rows, columns = hit.shape
    if query_images.shape[:1] != (rows,) or neighbour_images.shape[:2] != hit.shape or distances.shape != hit.shape:
        raise ValueError(
            f"queries {query_images.shape}, neighbours {neighbour_images.shape}, hit {hit.shape} and "
            f"distances {distances.shape} do not fit"
        )
    if len(titles) != rows:
        raise ValueError(f"{rows} queries have {len(titles)} titles")
    description = description or (
        f"{rows} queries (left) and their {columns} nearest database pictures by Hamming distance; a green "
        f"frame with a tick is a picture of the query's class, a red dashed one with a cross is not. "
        f"{int(hit.sum())} of {hit.size} are hits."
    )
    height = 1.25 * query_images.shape[2] / query_images.shape[3] + 0.3
    with canvas(1.25 * (columns + 1) + 0.5, min(height, 2.5) * rows + 0.85) as figure:
        grid = figure.add_gridspec(rows, columns + 2, width_ratios=[1, 0.12, *[1] * columns])
        for row in range(rows):
            query = figure.add_subplot(grid[row, 0])
            show_pixels(query, query_images[row])
            draw_frame(query, INK, "solid", 1.6)
            query.set_xlabel(shortened(titles[row]), fontsize=11, fontweight="bold", labelpad=3)
            for column in range(columns):
                axes = figure.add_subplot(grid[row, column + 2])
                show_pixels(axes, neighbour_images[row, column])
                _mark_hit(axes, bool(hit[row, column]), int(distances[row, column]))
                if row == 0:
                    axes.set_title(str(column + 1), loc="center", fontsize=11, fontweight="normal", color="#555555")
            if row == 0:
                query.set_title("query", loc="center", fontsize=11, fontweight="normal", color="#555555")
        headline(figure, title)
    # Coarser than the curves: photographs do not compress, and their own pixels are few.
    return Picture(figure, title, description, dots_per_inch=110)


def training_curves_picture(
    metrics: str | os.PathLike[str],
    *,
    title: str = "Training curves",
    description: str | None = None,
) -> Picture | None:
    """Draw loss and validation metrics by epoch, from a metrics.csv.

    Returns:
        The picture; None when the table holds fewer than two epochs of any curve.
    """
    series = series_by_epoch(read_rows(metrics))
    losses = {name: points for name, points in series.items() if bare(name).startswith("loss")}
    panels = [(curves, label) for curves, label in ((losses, "Loss"), (_scores(series), "Validation")) if curves]
    if not panels:
        return None
    description = description or "By epoch: " + ", ".join(name for curves, _ in panels for name in curves) + "."
    entries = max(len(curves) for curves, _ in panels)
    with canvas(7.2 if len(panels) == 1 else 12.0, 4.4 + 0.26 * math.ceil(entries / 2)) as figure:
        for number, (curves, label) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), number)
            _draw_curves(axes, curves, label)
        headline(figure, title)
    return Picture(figure, title, description)


def sweep_picture(
    rows: Sequence[tuple[str, Sequence[float], float, float]],
    *,
    metric: str,
    title: str = "Runs of the sweep, mean and 95 % interval",
    description: str | None = None,
) -> Picture:
    """Draw one line for each setting of a sweep: every run, their mean, and its 95 % interval.

    Args:
        rows: name, the runs' values, their mean and half the width of the interval (NaN for a single run); a
            picture holds the first 40.
        metric: name of what was measured.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("a picture of a sweep needs one row at least")
    shown = list(rows)[:MAX_SWEEP_ROWS]
    left_out = f" The first {len(shown)} of {len(rows)} settings." if len(shown) < len(rows) else ""
    description = description or (
        f"{metric} of every run (rings), and the mean over seeds and folds (dot) with its 95 % interval "
        f"(Student's t).{left_out}"
    )
    with canvas(8.0, 1.7 + 0.42 * len(shown)) as figure:
        axes = figure.add_subplot()
        for place, (_, values, mean, half_width) in enumerate(shown):
            axes.plot(values, [place] * len(values), "o", mfc="none", mec=BLUE, ms=7, alpha=0.7, zorder=2)
            spread = 0.0 if math.isnan(half_width) else half_width
            axes.errorbar(mean, place, xerr=spread, fmt="o", ms=6, color=VERMILLION, capsize=4, linewidth=2, zorder=3)
        axes.set_yticks(range(len(shown)), [shortened(name, 40) for name, *_ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(metric)
        # above the figure, not the axes: long names of settings leave the axes too narrow for it
        headline(figure, title)
    return Picture(figure, title, description)


def _mark_radii(axes: Axes, precision: Sequence[float], recall: Sequence[float], radii: Sequence[int]) -> None:
    shown = [radius for radius in radii if not math.isnan(precision[radius])]
    axes.plot(
        [recall[radius] for radius in shown],
        [precision[radius] for radius in shown],
        linestyle="none",
        marker="o",
        markersize=8.5,
        markerfacecolor="white",
        markeredgecolor=VERMILLION,
        markeredgewidth=2.2,
        zorder=3,
        label="Hamming radius r",
    )
    for group in _close_groups(shown, precision, recall):
        first, last = group[0], group[-1]
        low = precision[last] < 0.2
        axes.annotate(
            str(first) if first == last else f"{first}-{last}",
            ((recall[first] + recall[last]) / 2, precision[last]),
            textcoords="offset points",
            xytext=(0, 10) if low else (-5, -21),
            ha="center",
            fontsize=12,
            fontweight="bold",
            color=VERMILLION,
        )


def _close_groups(radii: Sequence[int], precision: Sequence[float], recall: Sequence[float]) -> list[list[int]]:
    """Join radii whose points would hide each other's label: saturated codes put several on one point."""
    groups: list[list[int]] = []
    for radius in radii:
        previous = groups[-1][-1] if groups else None
        near = previous is not None and (
            math.hypot(recall[radius] - recall[previous], precision[radius] - precision[previous]) < 0.045
        )
        if near:
            groups[-1].append(radius)
        else:
            groups.append([radius])
    return groups


def show_pixels(axes: Axes, image: np.ndarray) -> None:
    """Show an image (3, H, W) uint8 without ticks."""
    # Small pictures are enlarged pixel by pixel: smoothing would show detail that the network never saw.
    smooth = "antialiased" if image.shape[-1] > 64 else "nearest"
    axes.imshow(image.transpose(1, 2, 0), interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def draw_frame(axes: Axes, colour: str, style: str, width: float) -> None:
    """Draw a frame of one colour and line style around an image."""
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=colour, linewidth=width, linestyle=style)


def _mark_hit(axes: Axes, hit: bool, distance: int) -> None:
    colour = GREEN if hit else RED
    draw_frame(axes, colour, "solid" if hit else "dashed", 3.2)
    axes.set_xlabel(f"{'✓' if hit else '✗'} {distance}", fontsize=12, color=colour, fontweight="bold", labelpad=3)


def series_by_epoch(rows: Sequence[Mapping[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return (epoch, value) of every metric that was logged in two epochs at least, from the rows of a metrics.csv."""
    skipped = {*KEY_COLUMNS, *TIMING_COLUMNS}
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            # The last value of an epoch stands for it: the epoch's mean is logged after its steps.
            if name not in skipped and not name.endswith("_step") and "epoch" in row:
                series.setdefault(name, {})[int(row["epoch"])] = value
    return {name: sorted(points.items()) for name, points in series.items() if len(points) > 1}


def _scores(series: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {
        name: points
        for name, points in series.items()
        if name.startswith("val/")
        and is_score(name)
        and all(math.isnan(value) or 0 <= value <= 1 for _, value in points)
    }


def _draw_curves(axes: Axes, curves: Mapping[str, list[tuple[int, float]]], label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, (name, points) in enumerate(curves.items()):
        epochs, values = zip(*points, strict=True)
        colour = SERIES[number % len(SERIES)]
        dashes = "solid" if number < len(SERIES) else "dashed"
        marker = "o" if len(points) <= 40 else None
        axes.plot(epochs, values, color=colour, linestyle=dashes, marker=marker, ms=4.5, linewidth=2.2, label=name)
    axes.set(xlabel="Epoch", ylabel="Loss" if label == "Loss" else "Fraction")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(label)
    # Below the panel: no place inside it is free of every curve.
    axes.legend(fontsize=11, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
