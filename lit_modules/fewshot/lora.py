"""Low-rank changes of the projections in a multi-head attention (Hu et al., "LoRA", ICLR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("q", "k", "v", "o")


class LowRank(nn.Module):
    """The change of a linear map: (..., D_in) -> (..., D_out), scaling * B A dropout(x).

    A starts as a linear layer's weight does (Kaiming, a = sqrt 5), B at 0, so that nothing changes at first.

    Args:
        width_in, width_out: widths.
        rank: of B A.
        scaling: factor on it.
        dropout: share of the inputs that is dropped in training, in [0, 1).
    """

    def __init__(self, width_in: int, width_out: int, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width_in))
        self.up = nn.Parameter(torch.zeros(width_out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the change for x (..., D_in): (..., D_out)."""
        return self.scaling * F.linear(F.linear(self.dropout(x), self.down), self.up)


class LoraAttention(nn.MultiheadAttention):
    """A multi-head attention with low-rank changes of some of its projections.

    PyTorch's module keeps one matrix for queries, keys and values; here it is applied in three parts, each with its own
    change. The names of the parameters stay, so plain checkpoints load.

    Args:
        plain: the attention to change; its parameters are taken over, and queries, keys and values are of one width.
        projections: which of q, k, v, o.
        rank, scaling, dropout: see `LowRank`.

    Raises:
        ValueError: the attention has parts that are not handled: other widths of keys, extra keys.
    """

    def __init__(
        self, plain: nn.MultiheadAttention, projections: Sequence[str], rank: int, scaling: float, dropout: float
    ) -> None:
        if plain.in_proj_weight is None or plain.bias_k is not None or plain.add_zero_attn:
            raise ValueError("attention with separate widths or extra keys has no low-rank form here")
        has_bias = plain.in_proj_bias is not None
        super().__init__(
            plain.embed_dim, plain.num_heads, plain.dropout, has_bias, batch_first=plain.batch_first, device="meta"
        )
        self.in_proj_weight, self.in_proj_bias, self.out_proj = plain.in_proj_weight, plain.in_proj_bias, plain.out_proj
        width = plain.embed_dim
        self.low_rank = nn.ModuleDict(
            {name: LowRank(width, width, rank, scaling, dropout) for name in PROJECTIONS if name in projections}
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend: (B, L, D), or (L, B, D) where the attention is not batch first; no attention weights come back.

        Raises:
            ValueError: weights or a padding mask are asked for.
        """
        if need_weights or key_padding_mask is not None:
            raise ValueError("attention with low-rank changes gives no weights, and takes no padding mask")
        q, k, v = (self._by_head(self._project(name, x)) for name, x in (("q", query), ("k", key), ("v", value)))
        mask = _mask(attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal and mask is None
        )
        return self._output(self._joined(attended)), None

    def _project(self, name: str, x: Tensor) -> Tensor:
        place = PROJECTIONS.index(name)
        assert self.in_proj_weight is not None
        weight = self.in_proj_weight.chunk(3)[place]
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[place]
        return self._changed(name, x, F.linear(x, weight, bias))

    def _output(self, x: Tensor) -> Tensor:
        return self._changed("o", x, self.out_proj(x))

    def _changed(self, name: str, x: Tensor, projected: Tensor) -> Tensor:
        change = self.low_rank[name](x) if name in self.low_rank else None
        return projected if change is None else projected + change

    def _by_head(self, x: Tensor) -> Tensor:
        """Return (B, heads, L, D / heads)."""
        batch_first = x if self.batch_first else x.transpose(0, 1)
        return batch_first.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _joined(self, heads: Tensor) -> Tensor:
        """Undo `_by_head`."""
        joined = heads.transpose(1, 2).flatten(-2)
        return joined if self.batch_first else joined.transpose(0, 1)


def _mask(mask: Tensor | None, heads: Tensor) -> Tensor | None:
    """Return a mask that goes with (B, heads, L, S); PyTorch marks with True what is NOT seen, here it is what is."""
    if mask is None:
        return None
    if mask.ndim == 3:
        mask = mask.unflatten(0, heads.shape[:2])
    return ~mask if mask.dtype == torch.bool else mask.to(heads.dtype)
