"""MAS: memory aware synapses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from lifelong.core.batch import Batch
from lifelong.core.importance import output_sensitivity
from lifelong.core.learner import Learner
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.sample import checked_rows, sampled


class MAS(Quadratic):
    """Pull each weight back by how much the length of the model's output answers to it.

    omega_k = sum over tasks of the mean over rows of |d ||f(x)||**2 / d w_k|
    penalty = strength * sum_k omega_k * (w_k - anchor_k)**2
    Aljundi et al. 2018, arXiv:1711.09601.

    Labels are not used, so rows without labels will do. The magnitude is taken for each row, as
    the paper's equation has it, not of a batch's mean gradient as many implementations do.

    Args:
        strength: lambda in the paper.
        rows: measure on so many rows of the task, drawn at random; None for all.

    Raises:
        ValueError: a negative strength, or no rows.

    Example:
        >>> MAS(strength=1.0).importance
        {}
    """

    factor: ClassVar[float] = 2.0

    def __init__(self, strength: float = 1.0, *, rows: int | None = None) -> None:
        super().__init__(strength)
        self.rows = checked_rows(rows)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Measure the sensitivity of the outputs on the task's rows and add it."""
        rows = sampled(data, self.rows, self.generator)
        self.add(learner, output_sensitivity(learner.model, rows))
