"""The pictures of one image that was put to a trained run: what it is taken for, and what is near it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from records.canvas import BLUE, GREEN, INK, RED, Picture, canvas, headline, shortened
from records.figures import draw_frame, show_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.axes import Axes

COLUMNS = 5
MAX_NEIGHBOURS = 50
CELLS, MANY_BITS = 8, 64


def prediction_picture(
    image: np.ndarray,
    name: str,
    classes: Sequence[tuple[str, float]],
    code: np.ndarray | None = None,
    *,
    quantity: str = "probability",
    truth: str | None = None,
) -> Picture:
    """Draw an image, its likeliest classes as bars, and its code as black (1) and white (0) cells.

    Args:
        image: (3, H, W) uint8.
        name: of the image.
        classes: name and score of each, the best first; empty where no class is told.
        code: (K,) bool; None where there is none.
        quantity: what the scores are.
        truth: the image's own class, where it is known.

    Raises:
        ValueError: there is neither a class nor a code.
    """
    if not classes and code is None:
        raise ValueError("a prediction has classes or a code")
    with canvas(8.6, 3.6) as figure:
        panels = figure.subplots(1, 1 + bool(classes) + (code is not None), squeeze=False)[0]
        show_pixels(panels[0], image)
        panels[0].set_xlabel(shortened(truth or name, 30), fontsize=11, labelpad=4)
        if classes:
            _draw_scores(panels[1], classes, quantity)
        if code is not None:
            _draw_code(panels[-1], code)
        title = f"{shortened(classes[0][0], 40)}, {quantity} {classes[0][1]:.3f}" if classes else f"{len(code)} bits"  # type: ignore[arg-type]
        headline(figure, title)
    return Picture(figure, title, _prediction_sentence(name, classes, code, quantity, truth), dots_per_inch=130)


def _prediction_sentence(
    name: str, classes: Sequence[tuple[str, float]], code: np.ndarray | None, quantity: str, truth: str | None
) -> str:
    parts = [f"{name}, the image on the left"]
    if classes:
        listed = ", ".join(f"{one} {score:.3f}" for one, score in classes)
        parts.append(f"is taken for {classes[0][0]}; by {quantity}: {listed}")
    if truth is not None:
        parts.append(f"its own class is {truth}")
    if code is not None:
        parts.append(f"{int(code.sum())} of the {len(code)} bits of its code are 1 (black cells, by rows)")
    return "; ".join(parts) + "."


def _draw_scores(axes: Axes, classes: Sequence[tuple[str, float]], quantity: str) -> None:
    names, scores = zip(*classes, strict=True)
    places = range(len(names))
    axes.barh(places, scores, color=BLUE, height=0.62)
    axes.set_yticks(places, [shortened(name, 18) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, *scores), max(1.0, *scores))
    axes.set_xlabel(quantity)
    axes.grid(visible=False, axis="y")


def _draw_code(axes: Axes, code: np.ndarray) -> None:
    import numpy as np

    columns = min(CELLS if len(code) <= MANY_BITS else 2 * CELLS, len(code))
    cells = np.full(columns * math.ceil(len(code) / columns), np.nan)
    cells[: len(code)] = code
    axes.imshow(cells.reshape(-1, columns), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    draw_frame(axes, INK, "solid", 1.0)
    axes.set_xlabel(f"code, {len(code)} bits", fontsize=11, labelpad=4)


def neighbours_picture(
    query: np.ndarray,
    query_name: str,
    neighbours: np.ndarray,
    distances: Sequence[int],
    names: Sequence[str],
    hits: Sequence[bool] | None = None,
) -> Picture:
    """Draw an image in the left column and its nearest ones beside it, five in a row, nearest first.

    Args:
        query: (3, H, W) uint8.
        query_name: of the image.
        neighbours: (k, 3, h, w) uint8; the first 50 are drawn.
        distances: k Hamming distances.
        names: k names, or classes where these are known.
        hits: k times whether it shares a class with the query; None where that is not known.

    Raises:
        ValueError: the numbers differ, or there is no neighbour.
    """
    size = len(neighbours)
    if not size or len(distances) != size or len(names) != size or (hits is not None and len(hits) != size):
        raise ValueError(f"{size} neighbours, {len(distances)} distances and {len(names)} names do not go together")
    shown = min(size, MAX_NEIGHBOURS)
    rows = math.ceil(shown / COLUMNS)
    columns = min(COLUMNS, shown)
    title = f"Nearest images to {shortened(query_name, 40)}"
    with canvas(1.7 * (columns + 1) + 0.4, 1.95 * rows + 0.7) as figure:
        grid = figure.add_gridspec(rows, columns + 2, width_ratios=[1, 0.1, *[1] * columns])
        axes = figure.add_subplot(grid[0, 0])
        show_pixels(axes, query)
        draw_frame(axes, INK, "solid", 1.6)
        axes.set_xlabel("query", fontsize=11, fontweight="bold", labelpad=3)
        for place in range(shown):
            axes = figure.add_subplot(grid[place // columns, place % columns + 2])
            show_pixels(axes, neighbours[place])
            _name_neighbour(axes, int(distances[place]), names[place], None if hits is None else hits[place])
        headline(figure, title)
    return Picture(figure, title, _neighbours_sentence(query_name, distances, shown, hits), dots_per_inch=110)


def _name_neighbour(axes: Axes, distance: int, name: str, hit: bool | None) -> None:
    colour = INK if hit is None else GREEN if hit else RED
    style = "dashed" if hit is False else "solid"
    draw_frame(axes, colour, style, 1.0 if hit is None else 3.0)
    sign = "" if hit is None else "✓ " if hit else "✗ "
    axes.set_xlabel(f"{sign}distance {distance}\n{shortened(name, 18)}", fontsize=10, color=colour, labelpad=3)


def _neighbours_sentence(name: str, distances: Sequence[int], shown: int, hits: Sequence[bool] | None) -> str:
    count = f"{len(distances)} nearest images" + (f", {shown} of them shown" if shown < len(distances) else "")
    text = (
        f"{name} (left) and its {count}, nearest first; the number below each is its Hamming distance, "
        f"{min(distances)} to {max(distances)}"
    )
    if hits is not None:
        text += f"; {sum(hits)} of {len(hits)} share a class with the query (green frame and tick)"
    return text + "."
