"""A model in two parts: a trunk that stays as it is, and the rest, which learns."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from lifelong.core.features import head_of
from lifelong.core.forward import wants_task


class LatentModel(nn.Module):
    """Pass rows through a frozen trunk and then the rest; or latents through the rest alone.

    output = rest(latent), latent = trunk(x)
    Pellegrini et al. 2020, arXiv:1912.01100 (latent replay). They slow the trunk's learning down,
    so that stored latents grow old slowly; here it is frozen and they do not at all. So train it
    before, on other rows or on a first task.

    The trunk's parameters do not learn, and it stays in eval mode. `Latents` lets a learner
    compute each row's latent once and keep that instead of the row. What is exported takes rows.

    Args:
        trunk: inputs to latents.
        rest: latents to outputs, such as a `Classifier`; it may grow.

    Raises:
        ValueError: a rest that wants the task; or from `forward`, not one of x and latent.

    Example:
        >>> net = LatentModel(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> x = torch.zeros(5, 4)
        >>> torch.equal(net(x), net(latent=net.trunk(x)))
        True
    """

    def __init__(self, trunk: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        if wants_task(rest):
            raise ValueError(
                f"{type(rest).__name__} wants the task, which is not passed on; take a rest "
                "that does not, such as a Classifier with a GrowingHead"
            )
        self.trunk = trunk.requires_grad_(False)
        self.rest = rest
        self.train(self.training)

    @property
    def head(self) -> nn.Module:
        """The head of the rest."""
        return head_of(self.rest)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the rest; the trunk stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor | None = None, latent: Tensor | None = None) -> Tensor:
        """Compute the outputs of rows, or of their latents."""
        if (x is None) == (latent is None):
            raise ValueError("give a LatentModel either x or latent")
        if latent is None:
            with torch.no_grad():
                latent = self.trunk(x)
        return self.rest(latent)  # type: ignore[no-any-return]
