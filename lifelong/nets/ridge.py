"""Ridge regression on random features, from sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.analytic import AnalyticHead, held


class RidgeHead(AnalyticHead):
    """Fit class labels by ridge regression on random features (RanPAC).

    output = h W, h = relu(f P), W = (Q + ridge q I)^-1 [s_1 ... s_C], q the mean of Q's diagonal
    McDonnell et al. 2023, arXiv:2307.02251, its second phase; P of independent standard normals.

    The columns of s are the labels' part of the normal equations, so a class that comes later
    needs nothing of earlier rows. They choose the ridge anew with each task, out of 1e-8 to 1e8,
    on a fifth of its rows; here it is fixed, in parts of the mean diagonal, so that what it means
    does not depend on how many rows there are, and outputs depend on the rows alone.

    Args:
        features, classes, logits: as in `AnalyticHead`.
        width: of the random features; 10 000 in the paper. It holds width**2 numbers, and a
            solution takes some width**3 / 3 operations.
        ridge: positive.
        seed: of P, which is part of the state.

    Raises:
        ValueError: the width or the ridge is not positive.

    Example:
        >>> head = RidgeHead(2, classes=2, width=64)
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> head.add(x, torch.tensor([0, 0, 1, 1]))  # no line tells these apart
        >>> head.eval()(x).argmax(1)
        tensor([0, 0, 1, 1])
    """

    second = True

    def __init__(
        self,
        features: int,
        *,
        classes: int = 0,
        logits: nn.Module | None = None,
        width: int = 2000,
        ridge: float = 1e-2,
        seed: int = 0,
    ) -> None:
        if width < 1 or not 0 < ridge < float("inf"):
            raise ValueError(f"width is {width} and ridge {ridge}; both must be positive")
        self._width = width
        super().__init__(features, classes=classes, logits=logits)
        self.ridge = ridge
        chance = torch.Generator().manual_seed(seed)
        self.projection = held(torch.randn(features, width, generator=chance))

    @property
    def width(self) -> int:
        """How many random features there are."""
        return self._width

    def lift(self, x: Tensor) -> Tensor:
        """Project the features and cut off what is below 0."""
        return F.relu(x @ self.projection)

    def _solution(self, n: Tensor, s: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        del center
        system = self.moments.double().clone()
        scale = system.diagonal().mean()
        system.diagonal().add_(self.ridge * torch.where(scale > 0, scale, 1.0))
        factor, failed = torch.linalg.cholesky_ex(system)
        if bool(failed):
            raise ValueError(
                f"ridge is {self.ridge:g}, too little for features that are all but dependent; "
                "make it larger: 1e-6 or more"
            )
        return torch.cholesky_solve(s.T, factor).T, torch.zeros_like(n)

    def _settings(self) -> tuple[float, ...]:
        return (self.ridge,)
