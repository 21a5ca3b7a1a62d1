"""What every picture is drawn on: size, style, colours, fonts, and the PNG with its caption.

matplotlib is imported inside the functions, because everything else in this room must answer in a fraction of a second.
Curves have the colours of Okabe and Ito (2008), which stay apart for colour-blind readers.
"""

from __future__ import annotations

import functools
import logging
import re
import textwrap
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from records.atomic_file import replace_atomically
from records.notices import RunWarning

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, RED = "#0072B2", "#D55E00", "#009E73", "#CC3311"
SERIES = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#222222"
MISSING_SIGNS = (
    "some signs of names are boxes in the pictures: no installed font has them. For Chinese, Japanese and Korean "
    "install one, for instance by `apt-get install fonts-noto-cjk`; mode=test run=DIR then draws those of a test anew"
)
_MISSING_SIGN = re.compile(r"Glyph \d+ .* missing from")
FONT = "DejaVu Sans"
"""matplotlib brings it along."""
FURTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans SC",
    "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei",
    "SimHei", "PingFang SC", "PingFang HK", "Hiragino Sans GB", "Heiti SC", "Heiti TC", "STHeiti", "Yu Gothic",
    "MS Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "Nanum Gothic", "NanumGothic",
    "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Noto Sans Thai", "Noto Sans Hebrew",
)  # fmt: skip
"""Where signs are looked for that it lacks, Chinese, Japanese and Korean above all; those that are installed."""
_STYLE: Any = {
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 12.5,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.9,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure with the caption that its PNG carries (`Title`, `Description`)."""

    figure: Figure
    title: str
    description: str
    dots_per_inch: int = 160

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the PNG atomically, with the caption in its text chunks."""
        caption = {"Title": self.title, "Description": self.description}
        with replace_atomically(path) as file, _missing_signs_told():
            self.figure.savefig(file, format="png", dpi=self.dots_per_inch, metadata=caption)


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Make an empty figure of a size in inches, in the style that all pictures share."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Figure and canvas by hand, without pyplot: no global state, no window, no backend to choose.
    with mpl.rc_context({**_STYLE, "font.family": list(fonts())}):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        FigureCanvasAgg(figure)
        yield figure


@functools.cache
def fonts() -> tuple[str, ...]:
    """Return the families that text is drawn in: the first one that has a sign draws it."""
    from matplotlib import font_manager

    known = {one.fname for one in font_manager.fontManager.ttflist}
    # matplotlib keeps its list from the day it first ran: a font that was installed since is not in it
    for file in sorted(set(font_manager.findSystemFonts()) - known):
        # a file that is no font we can read has no sign to draw
        with suppress(OSError, RuntimeError):
            font_manager.fontManager.addfont(file)
    installed = set(font_manager.get_font_names())
    return FONT, *(name for name in FURTHER_FONTS if name in installed)


@contextmanager
def _missing_signs_told() -> Iterator[None]:
    """Turn matplotlib's warnings of single signs into one of the run, the same for all pictures, with the mend."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    # it says of a font that has one weight alone that it has no bold: the regular one is drawn, which is all there is
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        log.setLevel(level)
    is_missing = [_MISSING_SIGN.match(str(one.message)) is not None for one in caught]
    for one, is_told_below in zip(caught, is_missing, strict=True):
        if not is_told_below:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if any(is_missing):
        warnings.warn(MISSING_SIGNS, RunWarning, stacklevel=4)


def headline(figure: Figure, title: str) -> None:
    """Write the title over the whole figure, in as many lines as it takes."""
    figure.suptitle(wrapped(title, int(8 * figure.get_figwidth())), x=0.012, ha="left", fontsize=14, fontweight="bold")


def wrapped(text: str, width: int = 58) -> str:
    """Break a text into lines of `width` signs."""
    return "\n".join(textwrap.wrap(text, width))


def shortened(text: str, limit: int = 13) -> str:
    """Cut a text to `limit` signs."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
