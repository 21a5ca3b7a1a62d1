"""Codes found bit by bit: discrete cyclic coordinate descent (Shen et al., Supervised Discrete Hashing, CVPR 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_modules.hashing.base import code_of


def descend_bits(codes: Tensor, wanted: Tensor, overlap: Tensor) -> Tensor:
    """Return codes (N, K) after one pass over the bits, each set to its optimum given all others.

    Minimises, row by row, b' O b - 2 b · w over codes b of -1 and 1; a bit for which both are as good becomes -1.

    Args:
        codes: (N, K) of -1 and 1, or 0 for no code yet.
        wanted: real (N, K), the rows w.
        overlap: O, real and symmetric (K, K); its diagonal has no effect, as b_k² is 1.
    """
    # bits as rows: each of them is read and written whole, which is several times faster
    bits = codes.T.clone(memory_format=torch.contiguous_format)
    wanted = wanted.T.contiguous()
    others = overlap - torch.diag(overlap.diagonal())
    for bit in range(len(bits)):
        bits[bit] = code_of(wanted[bit] - others[bit] @ bits)
    return bits.T.contiguous()
