"""How a strength changes as learning goes on: functions of what has been learned so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far learning has come.

    Attributes:
        tasks: how often it has consolidated: the old tasks.
        steps: of the optimizer since then.
        old: how many classes the old tasks brought; 0 where tasks have not named any.
        new: how many more the present one brings.
    """

    tasks: int
    steps: int
    old: int = 0
    new: int = 0


Schedule: TypeAlias = Callable[[Progress], float]
"""What to multiply a strength by; any function will do."""


@dataclass(frozen=True, slots=True)
class Rising:
    """Rise in a straight line over the first steps after each consolidation.

    factor = start + (1 - start) * min(1, steps / over)

    A new task is then learned freely at first, and held back as it begins to cost the old ones.

    Args:
        over: how many steps it takes to reach the whole strength.
        start: the share of it to begin with, 0 or more; above 1 it falls.

    Raises:
        ValueError: fewer than 1 step, or a negative share.

    Example:
        >>> rising = Rising(over=100, start=0.5)
        >>> [rising(Progress(tasks=1, steps=steps)) for steps in (0, 50, 500)]
        [0.5, 0.75, 1.0]
    """

    over: int = 1000
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.over < 1:
            raise ValueError(f"over is {self.over}; it must be 1 step or more")
        if not 0 <= self.start < float("inf"):
            raise ValueError(f"start is {self.start}; it must be a finite number, 0 or more")

    def __call__(self, progress: Progress) -> float:
        """Give the share at this step."""
        share = min(1.0, progress.steps / self.over)
        return self.start + (1 - self.start) * share


@dataclass(frozen=True, slots=True)
class PerTask:
    """Grow with the number of old tasks, so that each weighs as much as the new one.

    factor = max(1, tasks) ** power
    With power 1 as van de Ven & Tolias 2018, arXiv:1809.10635, weigh the old tasks.

    Args:
        power: 1 in proportion, 0.5 with the square root; negative ones fall.

    Raises:
        ValueError: the power is not finite.

    Example:
        >>> PerTask(power=0.5)(Progress(tasks=9, steps=0))
        3.0
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        _finite(self.power)

    def __call__(self, progress: Progress) -> float:
        """Give the factor at this number of tasks."""
        return float(max(1, progress.tasks) ** self.power)


@dataclass(frozen=True, slots=True)
class ClassRatio:
    """Grow with the ratio of the old classes to the new ones.

    factor = (old / new) ** power
    Hou et al. 2019, CVPR (LUCIR), with power 0.5, as their code has it. PODNet
    (arXiv:2004.13513) counts the new classes among the old ones.

    Where tasks do not name their classes, or bring no new ones, it counts tasks, one to each new
    one, as `PerTask` does.

    Args:
        power: 0.5 in the paper.

    Raises:
        ValueError: the power is not finite.

    Example:
        >>> ClassRatio()(Progress(tasks=2, steps=0, old=50, new=2))
        5.0
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        _finite(self.power)

    def __call__(self, progress: Progress) -> float:
        """Give the factor at this number of classes."""
        if progress.old and progress.new:
            return float((progress.old / progress.new) ** self.power)
        return float(max(1, progress.tasks) ** self.power)


def _finite(power: float) -> None:
    if not abs(power) < float("inf"):
        raise ValueError(f"power is {power}; it must be a finite number")
