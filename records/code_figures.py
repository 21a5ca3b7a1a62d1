"""The picture of a set of codes: how often each bit is 1, and how much bits repeat each other.

Pure drawing, as in `records.figures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from records.canvas import BLUE, Picture, canvas, headline

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

UNREADABLE_GAP = 48
"""From so many bits on, bars stand without gaps, which would be thinner than a pixel."""


def bits_picture(
    shares: NDArray[np.float64],
    products: NDArray[np.float64],
    *,
    title: str = "Balance and correlation of the bits",
    description: str | None = None,
) -> Picture:
    """Draw the share of ones of each of K bits, and the correlation of every two of them.

    Args:
        shares: (K,), in [0, 1].
        products: (K, K), mean products of two bits of -1 and 1, in [-1, 1].
        title: caption in one line.
        description: caption in a sentence; None writes one.

    Raises:
        ValueError: the shapes do not fit, or there is no bit.
    """
    bits = len(shares)
    if not bits or products.shape != (bits, bits):
        raise ValueError(f"{bits} shares of ones do not go with products {products.shape}")
    description = description or _sentence(shares, products)
    with canvas(12.0, 4.9) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _draw_shares(left, shares)
        _draw_products(right, products)
        headline(figure, title)
    return Picture(figure, title, description)


def _sentence(shares: NDArray[np.float64], products: NDArray[np.float64]) -> str:
    import numpy as np

    bits = len(shares)
    constant = int(((shares == 0) | (shares == 1)).sum())
    text = (
        f"Left: in which share of the codes each of the {bits} bits is 1; 0.5 splits them evenly. Right: mean product "
        "of every two bits, written -1 and 1; 0 is no correlation, -1 and 1 are bits that are opposite or equal."
    )
    if bits > 1:
        others = np.abs(products[~np.eye(bits, dtype=bool)])
        text += f" Its absolute value is {others.mean():.3f} in the mean and {others.max():.3f} at most."
    return text + (f" Bits that never change: {constant}." if constant else "")


def _draw_shares(axes: Axes, shares: NDArray[np.float64]) -> None:
    from matplotlib.ticker import MaxNLocator

    bits = len(shares)
    axes.bar(range(bits), shares, color=BLUE, alpha=0.75, width=0.82 if bits < UNREADABLE_GAP else 1.0)
    axes.axhline(0.5, color="#555555", linestyle="dashed", linewidth=1.5)
    axes.set(xlim=(-0.6, bits - 0.4), ylim=(0, 1), xlabel="Bit", ylabel="Share of ones (fraction)")
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Share of ones")


def _draw_products(axes: Axes, products: NDArray[np.float64]) -> None:
    from matplotlib.ticker import MaxNLocator

    # from blue over white to red: told apart by colour-blind readers, and by lightness where the sign does not matter
    shading = axes.imshow(products, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Bit", ylabel="Bit")
    axes.set_title("Correlation")
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(shading, ax=axes, shrink=0.9, label="Mean product")
