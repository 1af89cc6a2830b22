"""L2: hold every weight equally at its value at the end of the last task."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.strategies.quadratic import Quadratic


class L2(Quadratic):
    """Pull every weight with the same force towards its value at the end of the last task.

    penalty = (strength / 2) * sum_k (w_k - anchor_k)**2

    The baseline that importance-weighted methods must beat; in Kirkpatrick et al. 2017,
    arXiv:1612.00796, figure 2.

    Args:
        strength: of the pull; with plain SGD, strength * lr above 2 diverges.

    Example:
        >>> L2(strength=1.0).strength
        1.0
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__(strength)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Move the anchor to the present weights."""
        del data
        self.importance = {}
        self.add(learner, {name: torch.ones_like(p) for name, p in learner.parameters.items()})
