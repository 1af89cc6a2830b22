"""A small transformer encoder, for sequences of tokens or of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lifelong.nets.attention import Attention

Prefix = Sequence[tuple[Tensor, Tensor] | None]
"""For each block, more keys and values of shape (rows, more, width), or None."""


class Transformer(nn.Module):
    """Turn a sequence into features: embed it, pass it through blocks, pool what comes out.

    h <- h + attention(norm(h)), h <- h + feedforward(norm(h)), features = pool(norm(h))
    Vaswani et al. 2017, arXiv:1706.03762; norms come first, as in Xiong et al. 2020,
    arXiv:2002.04745, since training is then stable without a warm-up.

    Rows of a batch have one length; what a shorter one lacks is padding, that nothing looks at.

    Args:
        tokens: how many token ids there are; None for sequences of features.
        inputs: width of the features in a sequence; None for token ids.
        width: of the blocks, and the number of features.
        layers: how many blocks.
        heads: of attention; they divide the width.
        hidden: width of the feedforward layer; None for four times the width.
        length: the longest sequence.
        padding: the token id that counts as padding, where no mask is given.
        pool: "mean" over what is no padding, or the "first" place; "none" for all places.
        causal: whether a place looks at none behind it, as a model of language must.
        dropout: while training.

    Shapes: x (rows, length) int64 or (rows, length, inputs), and mask (rows, length), True where
        there is something, to (rows, width), or (rows, length, width) without a pool. In a batch:
        `Batch.of({"x": x, "mask": mask}, y)`.

    Raises:
        ValueError: not one of tokens and inputs, sizes that are not positive, or from `forward`,
            a sequence that is too long.

    Example:
        >>> net = Transformer(tokens=100, width=16, heads=2, padding=0)
        >>> net(torch.tensor([[5, 7, 0], [9, 3, 4]])).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        tokens: int | None = None,
        *,
        inputs: int | None = None,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        length: int = 128,
        padding: int | None = None,
        pool: Literal["mean", "first", "none"] = "mean",
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if (tokens is None) == (inputs is None):
            raise ValueError(f"tokens is {tokens} and inputs is {inputs}; give one of them")
        sizes = {"tokens": tokens, "inputs": inputs, "width": width, "layers": layers}
        for name, size in {**sizes, "length": length, "hidden": hidden}.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be 1 or more")
        if pool not in ("mean", "first", "none"):
            raise ValueError(f"pool is {pool!r}; choose 'mean', 'first' or 'none'")
        self.features = width
        self.length = length
        self.padding = padding
        self.pool = pool
        self.causal = causal
        self.embedding: nn.Module = (
            nn.Linear(inputs, width) if inputs is not None else nn.Embedding(tokens or 0, width)
        )
        self.places = nn.Embedding(length, width)
        nn.init.normal_(self.places.weight, std=0.02)
        hidden = 4 * width if hidden is None else hidden
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Compute the features."""
        length = x.shape[1]
        if length > self.length:
            raise ValueError(
                f"a sequence of {length} places; this Transformer takes {self.length}: cut it, or "
                f"make the network with length={length}"
            )
        if mask is None and self.padding is not None:
            mask = x != self.padding
        h: Tensor = self.embedding(x) + self.places(torch.arange(length, device=x.device))
        # A row of padding alone looks at itself: nothing to look at would be NaN.
        ignored = None if mask is None else ~mask.bool() & mask.bool().any(1, keepdim=True)
        later = None
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for block, more in zip(self.blocks, prefix or [None] * len(self.blocks), strict=True):
            h = block(h, ignored, more, later)
        h = self.norm(h)
        if self.pool == "none":
            return h
        if self.pool == "first":
            return h[:, 0]
        if mask is None:
            return h.mean(1)
        seen = mask.to(h.dtype)[..., None]
        return (h * seen).sum(1) / seen.sum(1).clamp(min=1)


class Block(nn.Module):
    """Attention and a feedforward layer, each behind a norm and beside what goes past it.

    Example:
        >>> Block(8, heads=2, hidden=16)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        h: Tensor,
        ignored: Tensor | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        later: Tensor | None = None,
    ) -> Tensor:
        """Compute (rows, length, width) from the same.

        Masks are True where not to look: `ignored` (rows, length), `later` (length, length).
        """
        x = self.norm1(h)
        x, _ = self.attention(x, x, x, ignored, False, later, prefix=prefix)
        h = h + self.dropout(x)
        x = self.down(nn.functional.gelu(self.up(self.norm2(h))))
        return h + self.dropout(x)  # type: ignore[no-any-return]
