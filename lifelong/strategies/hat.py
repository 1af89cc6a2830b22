"""HAT: hard attention to the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.nets.gated import Gated
from lifelong.strategies.quadratic import checked_strength

WIDEST = 50.0
"""The largest argument of cosh, whose value must stay finite."""


class HAT(Strategy):
    """Learn for each task which units it uses, few new ones, and sharpen that choice as it learns.

    slope_b = 1/sharpness + (sharpness - 1/sharpness) * b / (steps - 1), for b = 0 to steps - 1
    penalty = strength * sum of a (1 - used) / sum of (1 - used), over all units
    gradient of e *= (sharpness / slope) * (cosh(slope * e) + 1) / (cosh(e) + 1)
    Serra et al. 2018, arXiv:1801.01423, equations 3 to 6.

    The model must be a `Gated` one, which has the gates a = sigmoid(slope * e) and holds what old
    tasks use. The slope rises over `steps` batches and then begins again, until the task ends; in
    the paper over each epoch, so `steps` is the number of batches in one. Nobody tells a strategy
    how long a task will be: a task should end where the slope is steep, after a multiple of
    `steps`. As in the authors' code, e stays within `limit` of 0, and slope * e counts as 50 at
    most where it is compensated. Rows of old tasks change nothing, so replay is of no use beside.

    Args:
        strength: of the penalty, which leaves units to later tasks.
        sharpness: the steepest slope.
        steps: how many batches it takes to reach it, 2 or more.
        limit: how far from 0 an embedding may be.

    Raises:
        ValueError: an argument out of range, or a model that is not `Gated`.

    Example:
        >>> [round(HAT(steps=5).slope(batch), 1) for batch in range(6)]
        [0.0, 100.0, 200.0, 300.0, 400.0, 0.0]
    """

    state: ClassVar[tuple[str, ...]] = ("batches",)

    def __init__(
        self,
        strength: float = 0.75,
        *,
        sharpness: float = 400.0,
        steps: int = 100,
        limit: float = 6.0,
    ) -> None:
        self.strength = checked_strength(strength)
        if not 1 < sharpness < float("inf"):
            raise ValueError(f"sharpness is {sharpness}; it must be above 1")
        if steps < 2:
            raise ValueError(f"steps is {steps}; it must be 2 or more, the batches of an epoch")
        if not limit > 0:
            raise ValueError(f"limit is {limit}; it must be positive")
        self.sharpness = sharpness
        self.steps = steps
        self.limit = limit
        self.batches = 0
        """How many the open task has had."""

    def slope(self, batch: int) -> float:
        """Tell the slope of the gates in a batch of the task, counted from 0."""
        low = 1 / self.sharpness
        return low + (self.sharpness - low) * (batch % self.steps) / (self.steps - 1)

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Set the slope for this batch; those whose gradients are added up have one."""
        if learner.pending == 0:
            gated(learner).slope.fill_(self.slope(self.batches))
        return batch

    def penalty(self, learner: Learner, batch: Batch, output: Any) -> Tensor | float:
        """Count the units that the task opens and no earlier one has used."""
        del batch, output
        return self.strength * gated(learner).usage()

    @torch.no_grad()
    def project(self, learner: Learner) -> None:
        """Make up for what a flat or a steep gate takes off the embeddings' gradients."""
        net = gated(learner)
        slope = net.slope  # of the batches that the gradient is of
        for e in net.newest:
            if e.grad is not None:
                steep = torch.cosh((slope * e).clamp(-WIDEST, WIDEST)) + 1
                e.grad.mul_(steep / (torch.cosh(e) + 1) * (self.sharpness / slope))

    @torch.no_grad()
    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Keep the embeddings within their limit, and count the batch."""
        del batch, output
        self._clamp(learner)
        self.batches += 1

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Begin with a flat slope again."""
        del data
        self._clamp(learner)  # a step that was taken between batches
        self.batches = 0

    def _clamp(self, learner: Learner) -> None:
        for e in gated(learner).newest:
            e.clamp_(-self.limit, self.limit)


def gated(learner: Learner) -> Gated:
    """Find the gated network of a learner.

    Raises:
        ValueError: there is none.
    """
    found = next((m for m in learner.model.modules() if isinstance(m, Gated)), None)
    if found is None:
        raise ValueError(
            f"HAT needs a gated network, and the model is {type(learner.model).__name__}; "
            "make one of its backbone: lifelong.nets.Gated(backbone)"
        )
    return found
