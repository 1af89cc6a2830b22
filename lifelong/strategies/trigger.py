"""A trigger: learn again only when too much is being lost without."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.memory import Memory
from lifelong.strategies.held_out import check_keys, columns_of, forgotten, right, withhold


class Trigger:
    """Tell whether a generator has to learn, by rows that nothing learns from.

    on once max(forgotten, fresh) > tolerance, until the task ends
    forgotten = mean over held-out rows of old tasks of (right then) - (right now)
    fresh = mean over those of this task of (right now) - (right by what is replayed)

    "Then" is when the generator last knew: the end of the row's task, or of the last task in which
    the generator learned. So forgetting has to grow to count again. The second term is what the
    next task would make forgotten if the generator never saw this one. The first task is always
    learned.

    Args:
        tolerance: the loss of accuracy to put up with; None to be on always, and to hold out
            nothing.
        every: how many steps lie between measurements; none is made while it is on.
        share: of the rows to hold out, chosen by a hash of their keys; those without are not.
        capacity: how many held-out rows to keep, equally many for each task.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> Trigger(0.02).on, Trigger(0.02).held.capacity
        (True, 500)
    """

    def __init__(
        self,
        tolerance: float | None = None,
        *,
        every: int = 50,
        share: float = 0.05,
        capacity: int = 500,
    ) -> None:
        if tolerance is not None and not 0 <= tolerance < 1:
            raise ValueError(f"tolerance is {tolerance}; it must be from 0 to below 1, or None")
        if every < 1:
            raise ValueError(f"every is {every}; it must be 1 step or more")
        if not 0 < share <= 0.5:
            raise ValueError(f"share is {share}; it must be above 0 and at most 0.5")
        self.tolerance = math.inf if tolerance is None else tolerance
        self.every = every
        self.share = share
        self.held = Memory(capacity, "balanced")
        self.keyed = False
        """Whether rows with keys have been learned from: others may have none, then."""
        self.on = True
        self.measured = 0
        """The step of the last measurement."""

    def withhold(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """Split a batch of new rows into those to learn from and those held out.

        Raises:
            InvalidBatch: rows have been appended already, those held out cannot be kept, or the
                first that come have no keys.
        """
        if self.tolerance == math.inf:
            return batch, None
        if not (self.keyed or len(self.held)):
            check_keys(batch)
        rest, rows = withhold(batch, self.share)
        if rows is not None:
            self.held.check(columns_of(rows))
        return rest, rows

    def saw(self, batch: Batch) -> None:
        """Note, after a step, whether rows with keys have been learned from, if that matters."""
        if self.tolerance < math.inf:  # else a GPU would be waited for, and for nothing
            self.keyed = self.keyed or bool((batch.key != -1).any())

    def keep(self, rows: Batch, known: Tensor, task: int, generator: torch.Generator) -> None:
        """Keep held-out rows; `known` tells which are right by what is replayed, (rows,)."""
        marks = torch.full((len(rows),), task)
        self.held.add({**columns_of(rows), "period": marks, "right": known}, marks, generator)

    def watch(self, learner: Learner, task: int) -> None:
        """Measure if it is time, and go on if too much is lost."""
        if self.on or learner.steps - self.measured < self.every:
            return
        self.measured = learner.steps
        held = self.held.all()
        if held:
            found, own = right(learner, held), held["period"] == task
            fresh = (found[own].float() - held["right"][own].float()).sum() / own.sum().clamp_min(1)
            self.on = max(forgotten(held, found, task), float(fresh)) > self.tolerance

    def close(self, learner: Learner, task: int) -> None:
        """At the end of a task: note what is right now, and go off."""
        if self.tolerance == math.inf:
            return
        held = self.held.all()
        if held:
            known = slice(None) if self.on else held["period"] == task
            slots = torch.arange(len(held["period"]))[known]
            self.held.write(slots, {"right": right(learner, held)[slots]})
        self.on, self.measured = False, learner.steps

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes and outlives a step."""
        held = self.held.state_dict()
        return {"held": held, "keyed": self.keyed, "on": self.on, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: the state's keys or kinds are not these; nothing is changed then.
        """
        state = {"keyed": False, **state}  # which older states do not have
        if state.keys() != {"held", "keyed", "on", "measured"}:
            raise StateMismatch(f"the state of Trigger has {sorted(state)}; it is another's")
        switches = type(state["on"]) is type(state["keyed"]) is bool
        if not switches or type(state["measured"]) is not int:
            raise StateMismatch(
                "on and keyed must be bools and measured a number in a state of Trigger"
            )
        self.held.load_state_dict(state["held"])
        self.keyed, self.on, self.measured = state["keyed"], state["on"], state["measured"]
