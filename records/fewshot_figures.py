"""The pictures of few-shot recognition: accuracy over shots, hardest pairs, best guesses beside images, cosines.

Pure drawing, as in `records.figures`: each function takes numbers and pixels and gives a `Picture`, and imports what is
heavy when it is called.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from records.canvas import BLUE, GREEN, INK, RED, SERIES, VERMILLION, Picture, canvas, headline, shortened
from records.metric_names import is_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from numpy.typing import NDArray

MAX_SERIES = 8
CAPTION_WIDTH = 32


@dataclass(frozen=True)
class Pair:
    """Two classes and how often each is taken for the other.

    `there` of `first_total` samples of the first class went to the second one, `back` of `second_total` the other way.
    """

    first: int
    second: int
    there: int
    back: int
    first_total: int
    second_total: int

    @property
    def rate(self) -> float:
        """Share of the two classes' samples that were taken for the other class."""
        return (self.there + self.back) / (self.first_total + self.second_total)


def hardest_pairs(confusion: NDArray[np.int64], count: int) -> list[Pair]:
    """Return the pairs of classes that are confused most, by the share of their samples, at most `count`.

    Pairs that were never confused are left out; equal ones come in label order.

    Args:
        confusion: (C, C) counts, rows are true classes.
        count: number of pairs.
    """
    import numpy as np

    totals = confusion.sum(axis=1)
    firsts, seconds = np.nonzero(np.triu(confusion + confusion.T, k=1))
    pairs = [
        Pair(a, b, int(confusion[a, b]), int(confusion[b, a]), int(totals[a]), int(totals[b]))
        for a, b in zip(firsts.tolist(), seconds.tolist(), strict=True)
    ]
    return sorted(pairs, key=lambda pair: (-pair.rate, pair.first, pair.second))[:count]


def hardest_pairs_picture(
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    count: int = 12,
    title: str = "Hardest pairs of classes",
    description: str | None = None,
) -> Picture | None:
    """Draw the most confused pairs as bars, one colour for each direction.

    Args:
        confusion: (C, C) counts, rows are true classes.
        class_names: C names.
        count: most pairs to draw.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Returns:
        The picture; None where nothing was confused.
    """
    pairs = hardest_pairs(confusion, count)
    if not pairs:
        return None
    description = description or (
        f"The {len(pairs)} pairs of classes with the largest share of samples taken for the other class; numbers are "
        "samples in each direction, of all samples of the class."
    )
    with canvas(9.6, 1.9 + 0.5 * len(pairs)) as figure:
        axes = figure.add_subplot()
        for place, pair in enumerate(pairs):
            whole = pair.first_total + pair.second_total
            parts = ((pair.there, BLUE, "first taken for second"), (pair.back, VERMILLION, "second taken for first"))
            start = 0.0
            for number, colour, label in parts:
                axes.barh(
                    place, number / whole, left=start, color=colour, height=0.66, label=label if not place else None
                )
                start += number / whole
            text = f"  {pair.there} of {pair.first_total}, {pair.back} of {pair.second_total}"
            axes.text(start, place, text, va="center", fontsize=10.5, color=INK)
        names = [
            f"{shortened(class_names[pair.first], 18)}, {shortened(class_names[pair.second], 18)}" for pair in pairs
        ]
        axes.set_yticks(range(len(pairs)), names)
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.set_xlim(0, 1.35 * pairs[0].rate)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Share of the two classes' samples taken for the other class")
        figure.legend(loc="outside lower center", ncols=2, fontsize=11)
        headline(figure, title)
    return Picture(figure, title, description)


def shots_picture(
    series: Mapping[str, Sequence[tuple[int, float, float]]],
    *,
    metric: str,
    title: str = "Accuracy over shots",
    description: str | None = None,
) -> Picture:
    """Draw one line for each setting: the mean over seeds for each number of shots, with its 95 % interval.

    Args:
        series: setting to (shots, mean, half the width of the interval), shots rising; NaN for no interval. At most
            eight settings are drawn.
        metric: name of what was measured.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not any(series.values()):
        raise ValueError("a picture over shots needs one point at least")
    shown = dict(list(series.items())[:MAX_SERIES])
    left_out = f" The first {len(shown)} of {len(series)} settings." if len(shown) < len(series) else ""
    description = description or (
        f"{metric} by the number of training images of each class: mean over seeds, bars are the 95 % interval "
        f"(Student's t); the axis of shots is logarithmic.{left_out}"
    )
    with canvas(8.0, 5.4) as figure:
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(shown.items()):
            shots, means, spreads = zip(*points, strict=True)
            axes.errorbar(
                shots,
                means,
                yerr=[0.0 if math.isnan(spread) else spread for spread in spreads],
                color=SERIES[place % len(SERIES)],
                linestyle="solid" if place < len(SERIES) else "dashed",
                marker="o",
                ms=6,
                linewidth=2.2,
                capsize=4,
                label=shortened(name, 40),
            )
        ticks = sorted({shots for points in shown.values() for shots, *_ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        unit = "" if is_count(metric) else " (fraction)"
        axes.set(xlabel="Shots (training images of each class)", ylabel=f"{metric}{unit}")
        if len(shown) > 1:
            axes.legend(fontsize=11)
        headline(figure, title)
    return Picture(figure, title, description)


def guesses_picture(
    images: NDArray[np.uint8],
    true_names: Sequence[str],
    guesses: Sequence[Sequence[str]],
    probabilities: NDArray[np.float64],
    *,
    title: str = "Best guesses",
    description: str | None = None,
) -> Picture:
    """Draw each image with bars of its best guesses beside it, two images in a row; a right guess has a tick.

    Args:
        images: (n, 3, H, W) uint8.
        true_names: class of each image.
        guesses: n rows of k class names, best first.
        probabilities: (n, k), of the guesses.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: the parts do not go together, or there is no image.
    """
    size = len(images)
    if not size or not size == len(true_names) == len(guesses) == len(probabilities):
        raise ValueError(f"{size} images, {len(true_names)} classes, {len(guesses)} rows of guesses do not go together")
    right = sum(true_names[place] == guesses[place][0] for place in range(size))
    description = description or (
        f"{size} test images, their class below, each with its {len(guesses[0])} most probable classes; green and "
        f"ticked is the true one. The first guess is right for {right}."
    )
    rows = math.ceil(size / 2)
    with canvas(12.0, 2.1 * rows + 0.7) as figure:
        grid = figure.add_gridspec(rows, 4, width_ratios=[1, 1.6, 1, 1.6])
        for place in range(size):
            row, column = place // 2, 2 * (place % 2)
            picture = figure.add_subplot(grid[row, column])
            picture.imshow(
                images[place].transpose(1, 2, 0), interpolation="antialiased" if images.shape[-1] > 64 else "nearest"
            )
            picture.set(xticks=[], yticks=[])
            picture.grid(visible=False)
            picture.set_xlabel(shortened(true_names[place], 22), fontsize=11, fontweight="bold")
            _draw_guesses(
                figure.add_subplot(grid[row, column + 1]), true_names[place], guesses[place], probabilities[place]
            )
        headline(figure, title)
    return Picture(figure, title, description, dots_per_inch=110)


def _draw_guesses(axes: Axes, true_name: str, guesses: Sequence[str], probabilities: NDArray[np.float64]) -> None:
    hits = [name == true_name for name in guesses]
    axes.barh(range(len(guesses)), probabilities, color=[GREEN if hit else "#9AA5B1" for hit in hits], height=0.7)
    labels = [f"{shortened(name, 20)} {'✓' if hit else ''}".rstrip() for name, hit in zip(guesses, hits, strict=True)]
    axes.set_yticks(range(len(guesses)), labels, fontsize=10.5)
    axes.set_ylim(len(guesses) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1])
    axes.tick_params(axis="x", labelsize=10)
    axes.set_xlabel("Probability", fontsize=10)
    axes.grid(visible=False, axis="y")
    if not hits[0]:
        axes.get_yticklabels()[0].set_color(RED)


def cosine_heatmap_picture(
    cosines: NDArray[np.float64],
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    image_names: Sequence[str] | None = None,
    *,
    title: str = "Cosine between images and captions",
    description: str | None = None,
) -> Picture:
    """Draw the cosines of every image with every caption, the images above their columns.

    The colours span what there is: CLIP's cosines lie in a narrow band (0.1 to 0.35), and a fixed scale would hide it.

    Args:
        cosines: (captions, images).
        images: each (3, H, W) uint8.
        captions: one text per row.
        image_names: one text per image, below its column; None leaves them out.
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: the shapes do not fit.
    """
    if cosines.shape != (len(captions), len(images)):
        raise ValueError(f"cosines {cosines.shape} do not go with {len(captions)} captions and {len(images)} images")
    best = cosines.argmax(axis=0)
    description = description or (
        f"Cosine similarity of {len(images)} images (columns) with {len(captions)} captions (rows), unit features; a "
        "frame marks each image's best caption."
    )
    rows, columns = cosines.shape
    with canvas(5.2 + 1.15 * columns, 2.2 + 0.95 * rows) as figure:
        grid = figure.add_gridspec(2, columns, height_ratios=[1.15, rows])
        for column, image in enumerate(images):
            axes = figure.add_subplot(grid[0, column])
            axes.imshow(image.transpose(1, 2, 0))
            axes.set_axis_off()
        axes = figure.add_subplot(grid[1, :])
        shading = axes.imshow(cosines, cmap="viridis", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(columns if image_names else 0), [shortened(name) for name in image_names or ()])
        axes.set_yticks(range(rows), [textwrap.fill(caption, CAPTION_WIDTH) for caption in captions])
        middle = (cosines.min() + cosines.max()) / 2
        for row in range(rows):
            for column in range(columns):
                colour = "white" if cosines[row, column] < middle else INK
                axes.text(column, row, f"{cosines[row, column]:.2f}", ha="center", va="center", color=colour)
        for column, row in enumerate(best.tolist()):
            axes.add_patch(_frame(column, row))
        figure.colorbar(shading, ax=axes, shrink=0.9, label="Cosine")
        headline(figure, title)
    return Picture(figure, title, description, dots_per_inch=110)


def _frame(column: int, row: int) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=VERMILLION, linewidth=2.6)
