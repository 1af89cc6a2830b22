"""A diffusion model of what an autoencoder makes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lifelong.nets.generators.diffusion import Diffusion
from lifelong.nets.generators.generator import Generator
from lifelong.nets.generators.vae import VAE


class LatentDiffusion(Generator):
    """Squeeze rows into a few numbers with an autoencoder, and let a diffusion model make those.

    loss = VAE's with a weak divergence + the diffusion's on z, which does not move the encoder
    Rombach et al. 2021, arXiv:2112.10752; both learn at once, as in Vahdat et al. 2021,
    arXiv:2106.05931, here from the first step on.

    Args:
        shape: of one row.
        hidden: widths of the encoder's layers.
        latents: how many numbers the diffusion makes.
        denoiser: widths of the diffusion's layers.
        steps: of sampling.
        divergence: what the VAE's divergence weighs.
        scale, bytes: as in `Generator`.

    Example:
        >>> chance = torch.Generator().manual_seed(0)
        >>> net = LatentDiffusion((1, 4, 4), hidden=(8,), latents=2, denoiser=(8,), steps=3)
        >>> net.sample(2, chance).shape
        torch.Size([2, 1, 4, 4])
    """

    lr: ClassVar[float] = 2e-3
    averaging: ClassVar[float] = 0.99

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (400, 400),
        latents: int = 32,
        *,
        denoiser: Sequence[int] = (256, 256),
        steps: int = 20,
        divergence: float = 0.2,
        scale: float | None = None,
        bytes: bool = False,
    ) -> None:
        super().__init__(shape, scale=scale, bytes=bytes)
        self.vae = VAE(shape, hidden, latents, divergence=divergence, scale=scale, bytes=bytes)
        self.diffusion = Diffusion((latents,), denoiser, steps=steps)

    def fit(self, x: Tensor) -> None:
        """Let the autoencoder take the rows' centre and spread."""
        self.vae.fit(x)

    def loss(self, x: Tensor, y: Tensor, chance: torch.Generator) -> Tensor:
        """Add the two losses of each row."""
        loss, z = self.vae.loss_and_code(x, chance)
        return loss + self.diffusion.loss(z.detach(), y, chance)

    def sample(self, rows: int, chance: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Decode what the diffusion makes."""
        return self.vae.decode(self.diffusion.sample(rows, chance, y), chance)
