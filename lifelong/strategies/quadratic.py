"""The pull that EWC, SI, MAS and L2 share: each weight is held at an anchor by a spring."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lifelong import fused
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy

Spring: TypeAlias = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]


class Quadratic(Strategy):
    """Hold weights by a quadratic penalty whose gradient is added in closed form.

    penalty = (factor * strength / 2) * sum_k importance_k * (w_k - anchor_k)**2
    gradient_k += factor * strength * importance_k * (w_k - anchor_k)

    The gradient is added in `project` and never passes through autograd. Weights that the current
    loss does not reach (no gradient, so the optimizer leaves them alone) are not pulled.

    Args:
        strength: 0 or more.

    Attributes:
        importance: by parameter name, a tensor of its shape.
        anchor: by parameter name, where the weight is held.

    Raises:
        ValueError: the strength is negative or not finite.
    """

    state: ClassVar[tuple[str, ...]] = ("importance", "anchor")

    factor: ClassVar[float] = 1.0
    """2 where the paper's penalty has no factor of one half."""

    def __init__(self, strength: float) -> None:
        self.strength = checked_strength(strength)
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    @property
    def stiffness(self) -> float:
        """What importance times distance is multiplied by to give the gradient."""
        return self.factor * self.strength

    @torch.no_grad()
    def project(self, learner: Learner) -> bool | None:
        """Add the gradient of the penalty; tell whether all of the gradient is finite now."""
        held = self.held(learner)
        if not held:
            return None
        finite = fused.pull(*self.spring(learner, held), self.stiffness)
        learned = sum(parameter.grad is not None for parameter in learner.parameters.values())
        return finite if len(held) == learned else None

    def held(self, learner: Learner) -> list[str]:
        """Names of the weights that are held and have a gradient."""
        return [
            name
            for name, parameter in learner.parameters.items()
            if parameter.grad is not None and name in self.importance
        ]

    def spring(self, learner: Learner, names: list[str]) -> Spring:
        """Gradients, weights, anchors and importance of some weights."""
        weights = [learner.parameters[name] for name in names]
        return (
            [weight.grad for weight in weights if weight.grad is not None],
            weights,
            [self.anchor[name] for name in names],
            [self.importance[name] for name in names],
        )

    def add(self, learner: Learner, importance: dict[str, Tensor]) -> None:
        """Add importance to what is held already, and hold everything where it is now."""
        for name, value in importance.items():
            held = self.importance.get(name)
            self.importance[name] = value if held is None else held + value
            self.anchor[name] = learner.parameters[name].detach().clone()


def checked_strength(strength: float) -> float:
    """Give the strength back if it is a finite number of 0 or more.

    Example:
        >>> checked_strength(-1.0)
        Traceback (most recent call last):
        ...
        ValueError: strength is -1.0; it must be a finite number, 0 or more (0 switches it off)
    """
    given: object = strength
    number = isinstance(given, Real) and not isinstance(given, bool)
    if not (number and 0 <= strength < float("inf")):
        raise ValueError(
            f"strength is {strength!r}; it must be a finite number, 0 or more (0 switches it off)"
        )
    return float(strength)
