"""Affine maps of whole batches, each image by a map of its own."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def identity_maps(size: int) -> torch.Tensor:
    """Return `size` maps that change nothing, float32 (size, 2, 3)."""
    return torch.eye(2, 3).repeat(size, 1, 1)


def rotations(degrees: torch.Tensor) -> torch.Tensor:
    """Return the maps that turn images counter-clockwise about their centre, float32 (B, 2, 3) of degrees (B,)."""
    angle = torch.deg2rad(degrees.double())
    maps = identity_maps(len(angle)).double()
    maps[:, 0, 0], maps[:, 0, 1] = angle.cos(), -angle.sin()
    maps[:, 1, 0], maps[:, 1, 1] = angle.sin(), angle.cos()
    return maps.float()


def warp(images: torch.Tensor, maps: torch.Tensor, fill: int = 0, mode: str = "nearest") -> torch.Tensor:
    """Read every image at the places that its map names.

    Args:
        images: uint8 (B, 3, H, W).
        maps: float (B, 2, 3); a pixel of the result at (x, y), counted from the centre of the image in pixels, x to
            the right and y downwards, is read at map @ (x, y, 1).
        fill: value of what lies outside of the image, in 0 .. 255.
        mode: nearest or bilinear.

    Returns:
        uint8 (B, 3, H, W).
    """
    height, width = images.shape[2:]
    scale = torch.tensor([[1.0, height / width, 2.0 / width], [width / height, 1.0, 2.0 / height]])
    grid = F.affine_grid(maps.float() * scale, list(images.shape), align_corners=False)
    # outside is zero, so the images are shifted to where zero is the fill
    shifted = images.float() - fill
    read = F.grid_sample(shifted, grid, mode=mode, padding_mode="zeros", align_corners=False) + fill
    return read.round().to(torch.uint8)
