"""A small diffusion model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.generators.generator import Generator

TIMES = 32
"""How many numbers tell the network how much noise there is."""


class Diffusion(Generator):
    """Learn to take noise away from rows, and make rows by taking it away from nothing else.

    x_t = cos(t) x + sin(t) noise,  loss = mean of (cos(t) noise - sin(t) x - net(x_t, t))**2
    Ho, Jain & Abbeel 2020, arXiv:2006.11239, for t drawn from 0 to pi / 2; the network gives the
    velocity dx_t / dt of Salimans & Ho 2022, arXiv:2202.00512, from which the clean row is
    cos(t) x_t - sin(t) net(x_t, t). So one that has learned nothing makes almost normal noise, of
    the rows' own spread, not one mean row. Sampling goes the deterministic way of Song, Meng &
    Ermon 2020, arXiv:2010.02502, in few steps.

    It suits rows of up to about a hundred numbers; of images, let it make what an autoencoder
    squeezes them into: `LatentDiffusion`.

    Args:
        shape: of one row.
        hidden: widths of the layers, with a shortcut around each that keeps the width.
        steps: of sampling.
        scale, bytes: as in `Generator`.

    Example:
        >>> chance = torch.Generator().manual_seed(0)
        >>> Diffusion((6,), hidden=(8, 8), steps=3).sample(2, chance).shape
        torch.Size([2, 6])
    """

    averaging: ClassVar[float] = 0.995

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        *,
        steps: int = 20,
        scale: float | None = None,
        bytes: bool = False,
    ) -> None:
        super().__init__(shape, scale=scale, bytes=bytes)
        if steps < 1:
            raise ValueError(f"steps is {steps}; sampling takes 1 or more")
        self.steps = steps
        befores = [self.width, *hidden[:-1]]
        self.layers = nn.ModuleList(map(nn.Linear, befores, hidden))
        self.times = nn.ModuleList(nn.Linear(TIMES, width) for width in hidden)
        self.output = nn.Linear(hidden[-1], self.width)

    def clean(self, x: Tensor, t: Tensor) -> Tensor:
        """Say what noisy rows look like clean, (rows, width), at angles t, (rows,)."""
        return t.cos()[:, None] * x - t.sin()[:, None] * self.velocity(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Say how noisy rows change as the angle grows, (rows, width)."""
        frequency = torch.arange(1, TIMES // 2 + 1, device=t.device)
        angles = t[:, None] * frequency
        code = torch.cat((angles.sin(), angles.cos()), 1)  # (rows, TIMES)
        h = x
        for layer, time in zip(self.layers, self.times, strict=True):
            new = F.silu(layer(h) + time(code))
            h = h + new if h.shape == new.shape else new
        velocity: Tensor = self.output(h)
        return velocity

    def loss(self, x: Tensor, y: Tensor, chance: torch.Generator) -> Tensor:
        """Compute the squared error of each row's velocity, averaged over its numbers."""
        del y
        clean = self._balanced(self.inward(x))
        t = torch.rand(len(x), generator=chance).to(clean.device) * (torch.pi / 2)
        noise = self.noise(*clean.shape, chance=chance)
        cosine, sine = t.cos()[:, None], t.sin()[:, None]
        guess = self.velocity(cosine * clean + sine * noise, t)
        return ((cosine * noise - sine * clean - guess) ** 2).mean(1)

    def sample(self, rows: int, chance: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Take the noise away in `steps` steps from pi / 2 to 0."""
        del y
        noisy = self.noise(rows, self.width, chance=chance)
        angles = torch.linspace(torch.pi / 2, 0, self.steps + 1, device=noisy.device)
        for now, then in itertools.pairwise(angles):
            clean = self.clean(noisy, now.expand(rows))
            clean = clean.clamp(-1, 1) if self.bounded else clean
            noise = (noisy - now.cos() * clean) / now.sin()
            noisy = then.cos() * clean + then.sin() * noise
        return self.outward((noisy + 1) / 2 if self.bounded else noisy)

    def _balanced(self, u: Tensor) -> Tensor:
        return 2 * u - 1 if self.bounded else u
