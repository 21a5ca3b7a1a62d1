"""Heads, codes, losses and what a task remembers in float32 at least, whatever type the backbone computes in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


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


class PreciseLinear(nn.Linear):
    """A linear layer computed in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, K) for x (B, D); see `precise_linear`."""
        return precise_linear(x, self)


def restore_state(module: nn.Module) -> None:
    """Turn half-precision buffers of a module itself to float32, and a batch norm's parameters with them."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype in HALF:
            setattr(module, name, buffer.float())
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in HALF:
                parameter.data = parameter.data.float()
