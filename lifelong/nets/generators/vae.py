"""A variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.generators.generator import Generator, layers_of


class VAE(Generator):
    """Squeeze rows through a few normal numbers, and make rows from such numbers.

    loss = (divergence * KL(q(z|x) || N(0, 1)) - log p(x|z)) / numbers in a row,  z from q(z|x)
    Kingma & Welling 2013, arXiv:1312.6114; the symmetric network of van de Ven & Tolias 2018,
    arXiv:1809.10635.

    p(x|z) is Bernoulli for bounded rows, whose mean is what `sample` gives. Others are normal,
    with a variance learned for each number of a row, and samples have that noise.

    Args:
        shape: of one row.
        hidden: widths of the encoder's layers; the decoder has them in reverse.
        latents: how many numbers z has.
        divergence: the weight of the divergence.
        scale, bytes: as in `Generator`.

    Example:
        >>> chance = torch.Generator().manual_seed(0)
        >>> vae = VAE((1, 4, 4), hidden=(8,), latents=2, scale=255.0, bytes=True)
        >>> vae.sample(3, chance).shape, vae.sample(3, chance).dtype
        (torch.Size([3, 1, 4, 4]), torch.uint8)
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (400, 400),
        latents: int = 100,
        *,
        divergence: float = 1.0,
        scale: float | None = None,
        bytes: bool = False,
    ) -> None:
        super().__init__(shape, scale=scale, bytes=bytes)
        self.latents = latents
        self.divergence = divergence
        self.encoder = layers_of(self.width, *hidden, 2 * latents)
        self.decoder = layers_of(latents, *reversed(hidden), self.width)
        self.log_variance = None if self.bounded else nn.Parameter(torch.zeros(self.width))

    def loss(self, x: Tensor, y: Tensor, chance: torch.Generator) -> Tensor:
        """Compute the negative evidence bound of each row, in nats a number."""
        del y
        return self.loss_and_code(x, chance)[0]

    def loss_and_code(self, x: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compute the losses, (rows,), and the numbers that were drawn, (rows, latents)."""
        u = self.inward(x)
        mean, log_variance = self.encoder(u).chunk(2, 1)
        z = mean + self.noise(*mean.shape, chance=chance) * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        bound = self.divergence * divergence + self.surprise(self.decoder(z), u)
        return bound / self.width, z

    def surprise(self, made: Tensor, u: Tensor) -> Tensor:
        """-log p(x|z) of each row, where `made` is what the decoder says."""
        if self.log_variance is None:
            return F.binary_cross_entropy_with_logits(made, u, reduction="none").sum(1)
        inverse = (-self.log_variance).exp()
        squares = (made - u) ** 2 * inverse + self.log_variance + math.log(2 * math.pi)
        return 0.5 * squares.sum(1)

    def sample(self, rows: int, chance: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Decode numbers drawn from N(0, 1)."""
        del y
        return self.decode(self.noise(rows, self.latents, chance=chance), chance)

    def decode(self, z: Tensor, chance: torch.Generator) -> Tensor:
        """Make rows from z: the mean of bounded ones, draws of others."""
        made = self.decoder(z)
        if self.log_variance is None:
            return self.outward(made.sigmoid())
        noise = self.noise(*made.shape, chance=chance)
        return self.outward(made + noise * (0.5 * self.log_variance).exp())
