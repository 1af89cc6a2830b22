"""Networks that learn where rows come from, and make new ones like them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lifelong.core.batch import Inputs
from lifelong.core.errors import InvalidBatch


class Generator(nn.Module):
    """The common base: what a row looks like, and how it becomes numbers for a network.

    Bounded rows (bytes, or floats with a `scale`) become u = x / scale, from 0 to 1; others are
    centred and divided by their spread, which `fit` takes from the first rows.

    Args:
        shape: of one row.
        scale: what full brightness is in the rows, from 0 to which they lie; None for any real
            numbers.
        bytes: whether the rows are uint8; samples are then rounded to it.

    Attributes:
        lr, betas: of the Adam that suits this kind.
        averaging: how much of its running average the weights to sample with keep at each step;
            0 to sample with the latest.
        conditional: whether it is told the classes of rows, and makes rows of a class asked for.

    Raises:
        ValueError: a shape without numbers, or a scale that is not positive.
    """

    lr: ClassVar[float] = 1e-3
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    averaging: ClassVar[float] = 0.0
    conditional: bool = False
    center: Tensor
    spread: Tensor

    def __init__(
        self, shape: Sequence[int], *, scale: float | None = None, bytes: bool = False
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.width = math.prod(self.shape)
        if self.width < 1 or not self.shape:
            raise ValueError(f"rows of shape {self.shape} hold no numbers; give the shape of one")
        if scale is not None and not 0 < scale < math.inf:
            raise ValueError(f"scale is {scale}; it must be positive, or None for any numbers")
        self.bounded = scale is not None
        self.bytes = bytes
        self.register_buffer("center", torch.tensor(0.0))
        self.register_buffer("spread", torch.tensor(1.0 if scale is None else float(scale)))

    def fit(self, x: Tensor) -> None:
        """Take the centre and the spread of unbounded rows from these, the first ones."""
        if not self.bounded:
            self.center.copy_(x.float().mean())
            self.spread.copy_(x.float().std(unbiased=False).clamp_min(1e-6))

    def inward(self, x: Tensor) -> Tensor:
        """Turn rows into what the network models, (rows, width)."""
        return (x.flatten(1).float() - self.center) / self.spread

    def outward(self, u: Tensor) -> Tensor:
        """Turn what the network makes into rows, as they come from the stream."""
        if self.bounded:
            u = u.clamp(0, 1)
        x = (u * self.spread + self.center).view(-1, *self.shape)
        return x.round().to(torch.uint8) if self.bytes else x

    def loss(self, x: Tensor, y: Tensor, chance: torch.Generator) -> Tensor:
        """Compute the loss of each row, (rows,); `y` counts where this is conditional."""
        raise NotImplementedError

    def sample(self, rows: int, chance: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Make rows; of the classes `y`, (rows,), where this is conditional."""
        raise NotImplementedError

    def noise(self, *shape: int, chance: torch.Generator) -> Tensor:
        """Draw from the standard normal distribution, on the CPU, to where the weights are."""
        return torch.randn(shape, generator=chance).to(self.center.device)


def check_rows(x: Inputs, scale: float | None) -> None:
    """Raise `InvalidBatch` unless rows are of a kind that a generator can model.

    With a scale, floats must lie from 0 to it; they are looked at, which stalls a GPU.

    Example:
        >>> check_rows(torch.tensor([[5, 3]]), None)
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: x is torch.int64 of shape (1, 2), of which no generator \
can make more; give floats or bytes of shape (rows, ...), or replay rows from a memory (Replay)
    """
    if isinstance(x, dict):
        raise InvalidBatch(
            f"x is a dict of {sorted(x)}, which no generator here can make; give one tensor, or "
            "replay rows from a memory (Replay)"
        )
    if x.ndim < 2 or not (x.is_floating_point() or x.dtype == torch.uint8):
        raise InvalidBatch(
            f"x is {x.dtype} of shape {tuple(x.shape)}, of which no generator can make more; give "
            "floats or bytes of shape (rows, ...), or replay rows from a memory (Replay)"
        )
    if scale is not None:
        low, high = (float(end) for end in torch.aminmax(x.detach()))
        if low < 0 or high > scale:
            raise InvalidBatch(
                f"x spans {low:g} to {high:g}, which is not within 0 to the scale of {scale:g}; "
                "give the scale of the rows, or scale=None for floats of any size"
            )


def layers_of(*widths: int, slope: float = 0.0) -> nn.Sequential:
    """Join linear layers of these widths, with (leaky) ReLUs between them.

    Example:
        >>> layers_of(4, 8, 2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*layers[:-1])
