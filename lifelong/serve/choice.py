"""What is tried on a stream that was: other strategies, other settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.serve.plan import Plan

Make = Callable[[], Sequence[Strategy]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is tried on a stream: strategies and settings, by a name.

    Attributes:
        name: of the choice.
        strategies: makes new ones; None for those of the service. With several workers it must be
            one that another process can import.
        plan: how to learn; None for that of the service.
        lr: the learning rate; None for that of the service's optimizer.
        settings: what differs, as it is to be shown.
    """

    name: str
    strategies: Make | None = None
    plan: Plan | None = None
    lr: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def with_strategies(
    make: Callable[[], Learner], strategies: Make | None, lr: float | None = None
) -> Callable[[], Learner]:
    """Return a function that makes the same learner with other strategies.

    Model, optimizer, loss, scheduler and settings are those of the learner that `make` returns.

    Args:
        make: returns a new learner.
        strategies: returns new ones; None leaves those of the learner.
        lr: a learning rate for all of its optimizer; None leaves it as it is.

    Raises:
        ValueError: the learning rate is not positive.
    """
    if lr is not None and not lr > 0:
        raise ValueError(f"lr is {lr}; it must be above 0")
    if strategies is None and lr is None:
        return make

    def other() -> Learner:
        made = make()
        if lr is not None:
            if made.optimizer is None:
                raise ValueError(f"lr is {lr}, but the learner has no optimizer; leave it out")
            for group in made.optimizer.param_groups:
                group["lr"] = lr
        if strategies is None:
            return made
        return Learner(
            made.model,
            made.optimizer,
            strategies(),
            loss=made.loss,
            precision=made.precision,
            accumulate=made.accumulate,
            clip=made.clip,
            scheduler=made.scheduler,
        )

    return other
