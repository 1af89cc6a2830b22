"""EWC: elastic weight consolidation, with one term a task or online."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

from lifelong.core.batch import Batch
from lifelong.core.importance import fisher
from lifelong.core.learner import Learner
from lifelong.strategies.quadratic import Quadratic
from lifelong.strategies.sample import checked_rows, sampled


class EWC(Quadratic):
    """Pull each weight back to what it was after each task, by its Fisher information there.

    penalty = (strength / 2) * sum over tasks t, sum_k F_tk * (w_k - w_tk)**2
    Kirkpatrick et al. 2017, arXiv:1612.00796.

    The terms of all tasks are one spring: their sum has, up to a constant, the importance
    F_k = sum_t F_tk and the anchor sum_t F_tk w_tk / F_k. So memory and time do not grow with the
    number of tasks, and nothing is approximated.

    With a `decay` it is online EWC, which holds to the last task's weights alone:
    F <- decay * F + F_t, anchor <- w_t. Schwarz et al. 2018, arXiv:1805.06370 (gamma).

    Args:
        strength: lambda in the paper; what fits spans orders of magnitude (1 to 1e8).
        decay: None for one term a task; 0 to 1 for online EWC.
        fisher: "empirical" (the labels of the data), "true" (expectation over the model's own
            predictions: one backward pass a class) or "sampled" (one label drawn for each row).
        rows: measure the Fisher information on so many rows of the task, drawn at random; None
            for all, which costs a little more than another pass over them.

    Raises:
        ValueError: a negative strength, a decay outside 0 to 1, or no rows.

    Example:
        >>> EWC(strength=100.0).decay is None
        True
    """

    row_losses = True

    def __init__(
        self,
        strength: float = 100.0,
        *,
        decay: float | None = None,
        fisher: Literal["empirical", "true", "sampled"] = "empirical",
        rows: int | None = None,
    ) -> None:
        super().__init__(strength)
        if decay is not None and not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it must lie between 0 and 1, or be None")
        if fisher not in ("empirical", "true", "sampled"):
            raise ValueError(f"fisher is {fisher!r}; choose 'empirical', 'true' or 'sampled'")
        self.decay = decay
        self.fisher = fisher
        self.rows = checked_rows(rows)

    def consolidate(self, learner: Learner, data: Iterable[Batch]) -> None:
        """Measure the Fisher information of the task's rows, exactly for each row, and merge it."""
        information = fisher(
            learner.model,
            sampled(data, self.rows, self.generator),
            kind=self.fisher,
            loss=learner.loss,
            generator=self.generator,
        )
        if self.decay is not None:
            self.importance = {name: self.decay * held for name, held in self.importance.items()}
            self.add(learner, information)
            return
        for name, new in information.items():
            weight = learner.parameters[name].detach().to(new.dtype)
            held = self.importance.get(name, torch.zeros_like(new))
            anchor = self.anchor.get(name, weight)
            total = held + new
            # Where no task has cared so far, 0 / 0: any anchor will do, so the newest weight.
            share = torch.where(total > 0, new / total, 1.0)
            self.importance[name] = total
            self.anchor[name] = torch.lerp(anchor, weight, share)
