"""Generative adversarial networks: a maker and a critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lifelong.nets.generators.generator import Generator, layers_of

EVERY = 4
"""The critic's slope is looked at in every fourth row."""

CODE = 32
"""How many numbers tell a network which class is meant."""


class GAN(Generator):
    """Make rows that a critic, which learns beside, cannot tell from given ones.

    critic: softplus(D(fake) - D(x)) + penalty / 2 * (|dD/dx|**2 + |dD/dfake|**2)
    maker:  softplus(D(x) - D(fake)),  fake = G(z)
    Goodfellow et al. 2014, arXiv:1406.2661; each real row is compared with a made one and both
    gradients are held small as in Huang et al. 2025, arXiv:2501.05441, so that neither collapse
    nor several critic's steps for one of the maker's come in. The slopes, which take more than half
    of the time, are looked at in every fourth row, which counts for four; Karras et al. 2019,
    arXiv:1912.04958, look at them in every sixteenth step.

    Both losses are one number a row: the critic's sees the fakes as constants, the maker's sees
    the critic's weights as constants, and one backward pass serves both.

    Args:
        shape: of one row.
        hidden: widths of the critic's layers; the maker has them in reverse.
        latents: how many numbers z has.
        penalty: on the critic's slope.
        conditional: tell both which class is meant. A class has a code of fixed cosines of its
            id, so that classes may come at any time and nothing has to grow.
        scale, bytes: as in `Generator`.

    Example:
        >>> chance = torch.Generator().manual_seed(0)
        >>> gan = GAN((5,), hidden=(8,), latents=2, conditional=True)
        >>> gan.sample(3, chance, torch.tensor([0, 1, 7])).shape
        torch.Size([3, 5])
    """

    lr: ClassVar[float] = 2e-3
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)
    averaging: ClassVar[float] = 0.99
    turn: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (400, 400),
        latents: int = 100,
        *,
        penalty: float = 1.0,
        conditional: bool = False,
        scale: float | None = None,
        bytes: bool = False,
    ) -> None:
        super().__init__(shape, scale=scale, bytes=bytes)
        self.latents = latents
        self.penalty = penalty
        self.conditional = conditional
        code = CODE if conditional else 0
        self.critic: nn.Module = layers_of(self.width + code, *hidden, 1, slope=0.2)
        self.maker = layers_of(latents + code, *reversed(hidden), self.width, slope=0.2)
        # From a seed of its own, so that a code is the same in every copy and after a restart.
        chance = torch.Generator().manual_seed(0)
        turn = 2 * torch.pi * torch.rand(2, CODE, generator=chance, device="cpu")
        self.register_buffer("turn", turn, persistent=False)

    def loss(self, x: Tensor, y: Tensor, chance: torch.Generator) -> Tensor:
        """Compute the critic's and the maker's loss of each row, added."""
        real = self.inward(x)
        fake = self.make(self.noise(len(x), self.latents, chance=chance), y)
        # Both at once: larger products are faster.
        both = torch.cat((self._told(real, y), self._told(fake.detach(), y)))
        of_real, of_fake = self.critic(both).squeeze(1).chunk(2)
        held = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooled = functional_call(self.critic, held, (self._told(fake, y),)).squeeze(1)
        loss = F.softplus(of_fake - of_real) + F.softplus(of_real.detach() - fooled)
        some = slice(None, None, EVERY)
        steep = self._steep(real[some], y[some]) + self._steep(fake.detach()[some], y[some])
        share = torch.zeros_like(loss)
        share[some] = 0.5 * self.penalty * len(loss) / len(steep) * steep
        return loss + share

    def make(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Make what the network models from z, (rows, width)."""
        made: Tensor = self.maker(self._told(z, y))
        return made.sigmoid() if self.bounded else made

    def judge(self, u: Tensor, y: Tensor | None) -> Tensor:
        """Say how real each row looks, (rows,)."""
        judged: Tensor = self.critic(self._told(u, y))
        return judged.squeeze(1)

    def sample(self, rows: int, chance: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Make rows from numbers drawn from N(0, 1)."""
        return self.outward(self.make(self.noise(rows, self.latents, chance=chance), y))

    def _steep(self, u: Tensor, y: Tensor) -> Tensor:
        """Compute the squared slope of the critic at each row, (rows,)."""
        at = u.requires_grad_()
        (slope,) = torch.autograd.grad(self.judge(at, y).sum(), at, create_graph=True)
        return (slope**2).sum(1)

    def _told(self, numbers: Tensor, y: Tensor | None) -> Tensor:
        if not self.conditional:
            return numbers
        if y is None:
            raise ValueError("a conditional GAN makes rows of classes; give their ids: y")
        step, start = self.turn.unbind()
        return torch.cat((numbers, torch.cos(y[:, None] * step + start)), 1)
