"""Heads, codes and losses in float32 at least, whatever type the backbone computes in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast on the device of `tensor`: codes and losses are computed in float32."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def precise_type(*tensors: Tensor) -> torch.dtype:
    """Return the type that holds all of the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def precise_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return the layer's output (B, K) for x (B, D), computed in float32 at least, whatever type the two have.

    Under autocast x comes in half precision, under `trainer.precision=bf16-true` the weights do too.
    """
    precise = precise_type(x, layer.weight)
    with full_precision(x):
        return F.linear(x.to(precise), layer.weight.to(precise), None if layer.bias is None else layer.bias.to(precise))
