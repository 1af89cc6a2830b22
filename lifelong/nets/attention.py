"""Attention whose four projections are linear layers, so that each can be adapted."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Let every place of a sequence look at every other: `nn.MultiheadAttention` in four layers.

    out(softmax(q k' / sqrt(d)) v), with q, k, v = query(x), key(x), value(x), in `heads` parts
    Vaswani et al. 2017, arXiv:1706.03762.

    It is called as torch's own and gives the same, but its projections are `nn.Linear` modules
    that are called as such: adapters and closed forms of importance find them there. Torch's
    keeps three of them in one tensor and multiplies by it directly.

    Args:
        width: of queries and outputs.
        heads: parts into which the width is split.
        dropout: of the weights, while training.
        keys: width of what keys are made of; None for `width`.
        values: width of what values are made of; None for `width`.
        bias: whether the projections have one.
        batch_first: whether rows come before places, as in (rows, length, width).

    Raises:
        ValueError: heads that do not divide the width; from `forward`, inputs without rows.

    Example:
        >>> x = torch.zeros(2, 5, 8)
        >>> output, weights = Attention(8, heads=2)(x, x, x, need_weights=False)
        >>> output.shape, weights
        (torch.Size([2, 5, 8]), None)
    """

    in_proj_bias = None
    """Torch's encoder layers ask this, and then call the module instead of a fused kernel."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        keys: int | None = None,
        values: int | None = None,
        bias: bool = True,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}; it must divide")
        self.heads = heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width if keys is None else keys, width, bias)
        self.value = nn.Linear(width if values is None else values, width, bias)
        self.out = nn.Linear(width, width, bias)

    @classmethod
    def of(cls, given: nn.MultiheadAttention) -> Self:
        """Make one with the weights of torch's own, which computes the same.

        Raises:
            ValueError: one with a learned key and value, or with a row of zeros, beside its input.

        Example:
            >>> own = nn.MultiheadAttention(8, 2, batch_first=True)
            >>> x = torch.rand(2, 5, 8)
            >>> torch.allclose(Attention.of(own)(x, x, x)[0], own(x, x, x)[0], atol=1e-6)
            True
        """
        if given.bias_k is not None or given.add_zero_attn:
            raise ValueError(
                "attention with add_bias_kv or add_zero_attn has no layers to adapt; make it "
                "without"
            )
        made = cls(
            given.embed_dim,
            given.num_heads,
            dropout=given.dropout,
            keys=given.kdim,
            values=given.vdim,
            bias=given.in_proj_bias is not None,
            batch_first=given.batch_first,
        ).to(given.out_proj.weight)
        weights = (
            given.in_proj_weight.chunk(3)
            if given.in_proj_weight is not None
            else (given.q_proj_weight, given.k_proj_weight, given.v_proj_weight)
        )
        with torch.no_grad():
            for part, weight in zip((made.query, made.key, made.value), weights, strict=True):
                part.weight.copy_(weight)
            made.out.weight.copy_(given.out_proj.weight)
            if given.in_proj_bias is not None:
                biases = (*given.in_proj_bias.chunk(3), given.out_proj.bias)
                for part, bias in zip(
                    (made.query, made.key, made.value, made.out), biases, strict=True
                ):
                    part.bias.copy_(bias)
        return made.train(given.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute outputs, and weights if they are needed; arguments are those of torch's own.

        Args:
            query: (rows, length, width), or length first where `batch_first` is off.
            key: (rows, places, ...).
            value: (rows, places, ...).
            key_padding_mask: (rows, places), True (or -inf) where not to look.
            need_weights: whether to give them, (rows, length, places).
            attn_mask: (length, places) or (rows * heads, length, places), as the other mask.
            average_attn_weights: over the heads, or give each head's.
            is_causal: a hint to torch that `attn_mask` is; not needed here.
            prefix: more keys and values, (rows, more, width) each, put before the others.
        """
        del is_causal
        if query.ndim != 3:
            raise ValueError(f"queries of shape {tuple(query.shape)}; give (rows, length, width)")
        if not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = self.query(query), self.key(key), self.value(value)
        mask = _bias(key_padding_mask, attn_mask, self.heads, q.dtype)
        if prefix is not None:
            k, v = torch.cat((prefix[0].to(k), k), 1), torch.cat((prefix[1].to(v), v), 1)
            mask = None if mask is None else F.pad(mask, (prefix[0].shape[1], 0))
        q, k, v = (self._split(part) for part in (q, k, v))
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _split(self, x: Tensor) -> Tensor:
        """Part the width by heads: (rows, heads, places, width / heads)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


def _bias(
    padding: Tensor | None, mask: Tensor | None, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Join the two masks into what is added to scores, (rows, heads, length, places) or like it."""
    parts: list[Tensor] = []
    if padding is not None:
        parts.append(_added(padding, dtype)[:, None, None])
    if mask is not None:
        mask = _added(mask, dtype)
        parts.append(mask.view(-1, heads, *mask.shape[1:]) if mask.ndim == 3 else mask)
    if len(parts) == 2:
        return parts[0] + parts[1]
    return parts[0] if parts else None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
