"""Histograms of oriented gradients of small pictures: an encoder without weights.

Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR 2005: gradients vote for their direction
within a cell. Here directions are signed, votes are shared by the two nearest bins, and cells overlap by a Gaussian.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

DIRECTIONS = 8
SMOOTHING = 0.7
CELL_WIDTH = 1.0
CELL_STEP = 2


def gradient_histograms(pictures: np.ndarray) -> np.ndarray:
    """Describe grey pictures (N, H, W) by unit vectors float32 (N, 8 * H / 2 * W / 2); a blank picture gives zeros."""
    smooth = gaussian_filter(pictures.astype(np.float64), (0, SMOOTHING, SMOOTHING))
    down, right = np.gradient(smooth, axis=(1, 2))
    strength = np.hypot(right, down)
    place = np.arctan2(down, right) / (2 * np.pi) * DIRECTIONS % DIRECTIONS
    directions = np.arange(DIRECTIONS)[:, None, None]
    distance = np.abs(place[:, None] - directions)
    share = np.clip(1 - np.minimum(distance, DIRECTIONS - distance), 0, None)
    cells = gaussian_filter(strength[:, None] * share, (0, 0, CELL_WIDTH, CELL_WIDTH))
    kept = cells[:, :, CELL_STEP // 2 :: CELL_STEP, CELL_STEP // 2 :: CELL_STEP].reshape(len(pictures), -1)
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    return (kept / np.where(length > 0, length, 1)).astype(np.float32)
