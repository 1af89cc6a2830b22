"""SI: synaptic intelligence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lifelong import fused
from lifelong.core.batch import Batch
from lifelong.core.learner import Learner
from lifelong.strategies.quadratic import Quadratic


class SI(Quadratic):
    """Pull each weight back in proportion to how much moving it reduced past losses.

    path_k  = - sum over the task's steps of gradient_k * step_k
    omega_k = sum over past tasks of max(path_k, 0) / (delta_k**2 + damping)
    penalty = strength * sum_k omega_k * (w_k - anchor_k)**2
    Zenke, Poole & Ganguli 2017, arXiv:1703.04200.

    `gradient` is that of the loss alone, without pulls of this or any later strategy. A weight
    whose movement raised the loss (a negative path, from momentum or noise) gets no importance,
    as in the authors' code, where the paper's equation would push it away.

    Args:
        strength: c in the paper.
        damping: xi in the paper.

    Raises:
        ValueError: a negative strength, or a damping that is not positive.

    Example:
        >>> SI(strength=0.1).damping
        0.1
    """

    state: ClassVar[tuple[str, ...]] = ("importance", "anchor", "path", "start", "latest")

    factor: ClassVar[float] = 2.0

    def __init__(self, strength: float = 0.1, *, damping: float = 0.1) -> None:
        super().__init__(strength)
        if not damping > 0:
            raise ValueError(f"damping is {damping}; it must be positive")
        self.damping = damping
        self.path: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.latest: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}
        self._moving: list[str] = []
        self._seen = 0

    @torch.no_grad()
    def project(self, learner: Learner) -> bool | None:
        """Keep a copy of the loss's own gradient for `after_step`, and pull."""
        self._moving, self._seen = [], learner.steps
        for name, parameter in learner.parameters.items():
            if parameter.grad is None:
                continue
            if name not in self.path:
                wide = torch.promote_types(parameter.dtype, torch.float32)
                self.path[name] = torch.zeros_like(parameter, dtype=wide)
                self.start[name] = parameter.detach().clone()
                self.latest[name] = self.start[name].clone()
            if name not in self._own:
                self._own[name] = torch.empty_like(parameter.grad)
            self._moving.append(name)
        held = self.held(learner)
        free = [name for name in self._moving if name not in self.importance]
        for name in free:
            self._own[name].copy_(learner.parameters[name].grad)  # type: ignore[arg-type]
        if not held:
            return None
        own = [self._own[name] for name in held]
        finite = fused.pull(*self.spring(learner, held), self.stiffness, own)
        return None if free else finite

    def after_step(self, learner: Learner, batch: Batch, output: Any) -> None:
        """Add the step just taken to the path."""
        del batch, output
        self._walk(learner)

    @torch.no_grad()
    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Turn the task's path into importance, and start the next path here."""
        del data
        self._walk(learner)  # a step that was taken between batches
        learned = {
            name: path.clamp(min=0)
            / ((learner.parameters[name] - self.start[name]).square() + self.damping)
            for name, path in self.path.items()
        }
        self.add(learner, learned)
        self.path, self.start, self.latest, self._own = {}, {}, {}, {}

    @torch.no_grad()
    def _walk(self, learner: Learner) -> None:
        names, self._moving = self._moving, []
        # Where a step failed, nothing has moved, and the gradient may not be finite.
        if names and learner.steps > self._seen:
            fused.walk(
                [self.path[name] for name in names],
                [self._own[name] for name in names],
                [learner.parameters[name] for name in names],
                [self.latest[name] for name in names],
            )
