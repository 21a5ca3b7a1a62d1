"""Digits drawn with a pen from a table of strokes: pictures of what a digit's name means, made without any image.

The strokes are this project's own. A drawing is rasterised the way the images of scikit-learn's digits were: a bitmap
of 32 x 32 dots, counted in blocks of 4 x 4 (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

Stroke = tuple[tuple[float, float], ...]
DOTS = 32
FINE = 4  # a dot is drawn FINE x FINE, so that slanted edges come out smooth
SIDE = 8


def _arc(x: float, y: float, width: float, height: float, start: float, end: float, points: int = 24) -> Stroke:
    angles = [math.radians(start + (end - start) * step / (points - 1)) for step in range(points)]
    return tuple((x + width * math.cos(angle), y - height * math.sin(angle)) for angle in angles)


# Points (x, y) in the unit square, y downward; each digit is one or two strokes of a pen.
STROKES: tuple[tuple[Stroke, ...], ...] = (
    (_arc(0.5, 0.5, 0.36, 0.5, 90, 450),),
    (((0.25, 0.28), (0.55, 0), (0.55, 1)),),
    ((*_arc(0.48, 0.3, 0.36, 0.3, 160, -35), (0.1, 1), (0.92, 1)),),
    ((*_arc(0.45, 0.25, 0.36, 0.25, 150, -80), (0.4, 0.5)), _arc(0.42, 0.73, 0.42, 0.27, 80, -150)),
    (((0.6, 0), (0.05, 0.62), (0.95, 0.62)), ((0.68, 0.38), (0.68, 1))),
    (((0.9, 0), (0.25, 0), (0.18, 0.45), *_arc(0.45, 0.68, 0.42, 0.32, 125, -140)),),
    (((0.7, 0), *_arc(0.5, 0.7, 0.45, 0.7, 110, 180), *_arc(0.48, 0.7, 0.38, 0.3, 180, 540)),),
    (((0.08, 0), (0.9, 0), (0.4, 1)), ((0.2, 0.5), (0.85, 0.5))),
    (_arc(0.5, 0.25, 0.32, 0.25, 90, 450), _arc(0.5, 0.74, 0.36, 0.26, 90, 450)),
    ((*_arc(0.48, 0.3, 0.38, 0.3, 0, 360), (0.86, 0.3), (0.8, 0.6), (0.55, 1)),),
)


@dataclass(frozen=True)
class Hand:
    """How a digit is written: width of the pen in dots, slant (x per y) and width of the digit (its height is 1)."""

    pen: float
    slant: float
    width: float


HANDS = tuple(Hand(*choice) for choice in product((3.5, 5.0), (0.0, 0.12, 0.25), (0.55, 0.7)))
"""The hands every digit is drawn in, as sentences around a class name are: two pens, three slants, two widths."""


def draw_digit(digit: int, hand: Hand) -> np.ndarray:
    """Draw a digit 0 .. 9: float64 (8, 8), the share of ink in each block, in [0, 1]."""
    side = DOTS * FINE
    page = Image.new("L", (side, side))
    pen = ImageDraw.Draw(page)
    radius = hand.pen * FINE / 2
    for stroke in STROKES[digit]:
        points = [_on_page(point, hand, side, radius) for point in stroke]
        pen.line(points, fill=1, width=round(2 * radius), joint="curve")
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    block = side // SIDE
    return np.asarray(page, dtype=np.float64).reshape(SIDE, block, SIDE, block).mean(axis=(1, 3))


def _on_page(point: tuple[float, float], hand: Hand, side: int, margin: float) -> tuple[float, float]:
    x, y = point
    x = 0.5 + (x - 0.5) * hand.width + hand.slant * (0.5 - y)
    return margin + x * (side - 2 * margin), margin + y * (side - 2 * margin)
