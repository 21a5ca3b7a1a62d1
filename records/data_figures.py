"""The pictures of what a run learns from: class counts, images as training sees them, the learning rate.

Pure drawing, as in `records.figures`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from records.canvas import BLUE, SERIES, Picture, canvas, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

CELL, GAP = 96, 8
# More classes than this are numbered on the axis, and not named.
MAX_NAMED = 25
# From here on a linear axis hides the rare classes.
LOGARITHMIC_FROM = 20


def class_counts_picture(
    class_counts: Sequence[int], class_names: Sequence[str], *, multi_label: bool = False
) -> Picture:
    """Draw the training images of every class as a bar, the most frequent class first.

    Args:
        class_counts: C numbers, 0 or more.
        class_names: C names.
        multi_label: whether an image may count for several classes.

    Raises:
        ValueError: there is no class, or counts and names are not equally many.
    """
    if not class_counts or len(class_counts) != len(class_names):
        raise ValueError(f"{len(class_counts)} class counts and {len(class_names)} names; one of each per class")
    order = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    counts = [class_counts[label] for label in order]
    present = [count for count in counts if count]
    ratio = counts[0] / present[-1] if present else math.nan
    named = len(counts) <= MAX_NAMED
    with canvas(8.6, 4.2) as figure:
        axes = figure.add_subplot()
        axes.bar(range(len(counts)), counts, width=0.8 if named else 1.0, color=BLUE)
        if ratio >= LOGARITHMIC_FROM:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)  # so that a class of one image has a bar
        axes.set_ylabel("Training images" + (" (logarithmic)" if ratio >= LOGARITHMIC_FROM else ""))
        if named:
            names = [shortened(class_names[label]) for label in order]
            turned = max(map(len, names)) > 4
            axes.set_xticks(range(len(names)), names, rotation=40 if turned else 0, ha="right" if turned else "center")
        axes.set_xlabel("Class" if named else "Class, the most frequent first")
        axes.set_xlim(-0.6, len(counts) - 0.4)
        axes.grid(visible=False, axis="x")
        title = f"Training images of {len(counts)} classes"
        axes.set_title(title, pad=10)
    return Picture(figure, title, _counts_sentence(counts, ratio, multi_label))


def _counts_sentence(counts: Sequence[int], ratio: float, multi_label: bool) -> str:
    empty = sum(count == 0 for count in counts)
    parts = [f"{sum(counts):,} images in all" if not multi_label else "an image counts for each of its classes"]
    parts.append(f"{counts[0]:,} in the most frequent class, {counts[-1]:,} in the rarest")
    if not math.isnan(ratio):
        parts.append(f"imbalance ratio {ratio:.1f}")
    if empty:
        parts.append(f"{empty} classes without a training image")
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def training_images_picture(rows: Mapping[str, np.ndarray], titles: Sequence[str]) -> Picture:
    """Draw the same images in several rows: as they are stored, and as training sees them.

    Args:
        rows: name of a row to its images, (n, 3, H, W) uint8; sizes may differ between rows.
        titles: n texts, the class of each image.

    Raises:
        ValueError: a row has not n images.
    """
    wrong = [name for name, images in rows.items() if len(images) != len(titles)]
    if wrong or not titles:
        raise ValueError(f"{len(titles)} titles do not fit the images of {', '.join(wrong) or 'the rows'}")
    step = CELL + GAP
    title = "Images as training sees them"
    with canvas(1.0 * len(titles) + 1.6, 1.0 * len(rows) + 0.9) as figure:
        axes = figure.add_subplot()
        axes.imshow(_sheet(list(rows.values()), len(titles)), interpolation="nearest")
        axes.set_xticks([step * place + CELL / 2 for place in range(len(titles))], [shortened(one) for one in titles])
        axes.set_yticks([step * place + CELL / 2 for place in range(len(rows))], list(rows))
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=10)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, pad=10)
    sizes = ", ".join(f"{name} {images.shape[3]} x {images.shape[2]}" for name, images in rows.items())
    description = f"Each column is one training image, as it is stored and as it is changed. Pixels: {sizes}."
    return Picture(figure, title, description, dots_per_inch=110)


def _sheet(rows: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put images of any sizes into cells of one size, on white: (height, width, 3) uint8."""
    import numpy as np
    from PIL import Image

    step = CELL + GAP
    sheet = np.full((step * len(rows) - GAP, step * columns - GAP, 3), 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            height, width = image.shape[1:]
            scale = CELL / max(height, width)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            # small pictures are enlarged pixel by pixel: smoothing would show detail that the network never sees
            smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
            cell = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize(size, smooth))
            top, left = row * step + (CELL - size[1]) // 2, column * step + (CELL - size[0]) // 2
            sheet[top : top + size[1], left : left + size[0]] = cell
    return sheet


def learning_rate_picture(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Picture:
    """Draw the learning rate over the run.

    Args:
        curves: name of a group of parameters to its points (epoch, learning rate), epochs rising.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("a picture of the learning rate needs one curve at least")
    with canvas(8.0, 4.2) as figure:
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            epochs, rates = zip(*points, strict=True)
            style = "solid" if number < len(SERIES) else "dashed"
            axes.plot(epochs, rates, color=SERIES[number % len(SERIES)], linewidth=2.2, linestyle=style, label=name)
        axes.set(xlabel="Epoch", ylabel="Learning rate")
        axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend(fontsize=10, title="parameters")
        title = "Learning rate"
        axes.set_title(title, pad=10)
    highest = max(rate for points in curves.values() for _, rate in points)
    return Picture(figure, title, f"Learning rate of each group of parameters by epoch; the highest is {highest:g}.")
