"""A strength steered by what is forgotten and what is not learned, on rows held out of learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import StateMismatch
from lifelong.core.learner import Learner
from lifelong.memory import Memory
from lifelong.strategies.held_out import check_keys, columns_of, forgotten, right, withhold


class Feedback:
    """Steer a strength by the accuracy on held-out rows, within bounds.

    log factor <- log factor + rate * (excess(forgetting) - max(0, excess(intransigence)))
    excess(value) = (value - its bound) / its bound, cut off at -1 and 1

    Forgetting is the mean over held-out rows of old tasks of (right at their task's end) - (right
    now), measured every `every` steps and at a task's end. Intransigence is how much lower the
    accuracy on the ending task's held-out rows is than that of old tasks at their ends; it counts
    at a task's end only, when the task has had its chance, and only where it exceeds its bound
    (the terms of Chaudhry et al. 2018, arXiv:1801.10112, who compare with a jointly trained model
    instead). So the strength rises while too much is forgotten, falls slowly while less is, and
    falls when a task could not be learned; each measurement moves it by `rate` at most, or twice
    that at a task's end.

    A share of the rows is held out by a hash of their keys: taken out of the batches before any
    later strategy sees them, so neither learned nor replayed, in no epoch. Rows without a key
    (-1) are never held out, nor all rows of a batch. What other strategies are given at
    consolidation still has them.

    Args:
        max_forgetting: what the loss of accuracy on old tasks is steered to.
        max_intransigence: how much worse than old ones a new task may be learned.
        share: of the rows to hold out.
        capacity: how many held-out rows to keep, equally many for each task.
        every: how many steps lie between measurements.
        rate: of the logarithm of the factor, at each measurement.
        bound: the largest factor; its inverse is the smallest. With plain SGD a pull that is too
            strong diverges: keep bound * strength below what is stable.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> Feedback(max_forgetting=0.05).factor
        1.0
    """

    def __init__(
        self,
        max_forgetting: float = 0.02,
        *,
        max_intransigence: float = 0.05,
        share: float = 0.05,
        capacity: int = 500,
        every: int = 50,
        rate: float = 0.2,
        bound: float = 10.0,
    ) -> None:
        _between(0, 1, max_forgetting=max_forgetting, max_intransigence=max_intransigence)
        _between(0, 0.5, share=share)
        _between(0, 10, rate=rate)
        if every < 1:
            raise ValueError(f"every is {every}; it must be 1 step or more")
        if not 1 < bound < float("inf"):
            raise ValueError(f"bound is {bound}; it must be a finite number above 1")
        self.max_forgetting = max_forgetting
        self.max_intransigence = max_intransigence
        self.share = share
        self.every = every
        self.rate = rate
        self.bound = bound
        self.held = Memory(capacity, "balanced")
        self.keyed = False
        """Whether rows with keys have been learned from: others may have none, then."""
        self.level = 0.0
        """The logarithm of the factor."""
        self.measured = 0
        """The step of the last measurement."""

    @property
    def factor(self) -> float:
        """What the strength is multiplied by."""
        return math.exp(self.level)

    def withhold(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """Split a batch of new rows into those to learn from and those held out.

        Raises:
            InvalidBatch: rows have been appended already, whose places would change, or those
                held out cannot be kept or measured, or the first that come have no keys.
        """
        if not (self.keyed or len(self.held)):
            check_keys(batch)
        rest, rows = withhold(batch, self.share)
        if rows is not None:
            self.held.check(columns_of(rows))
        return rest, rows

    def saw(self, batch: Batch) -> None:
        """Note, after a step, whether rows with keys have been learned from."""
        self.keyed = self.keyed or bool((batch.key != -1).any())

    def keep(self, rows: Batch, period: int, generator: torch.Generator) -> None:
        """Offer held-out rows of the period between two consolidations to the memory."""
        marks = torch.full((len(rows),), period)
        more = {"period": marks, "right": torch.zeros(len(rows), dtype=torch.bool)}
        self.held.add({**columns_of(rows), **more}, marks, generator)

    def watch(self, learner: Learner, period: int) -> None:
        """Measure forgetting if it is time, and move the factor."""
        if learner.steps - self.measured < self.every:
            return
        self.measured = learner.steps
        held = self.held.all()
        if held and bool((held["period"] < period).any()):
            self.steer(*_drops(held, right(learner, held), period), ended=False)

    def close(self, learner: Learner, period: int) -> None:
        """At the end of a period: measure both, and note which of its rows are right."""
        self.measured = learner.steps
        held = self.held.all()
        if not held:
            return
        found, own = right(learner, held), held["period"] == period
        if bool((held["period"] < period).any()):
            self.steer(*_drops(held, found, period), ended=True)
        if bool(own.any()):
            slots = own.nonzero().flatten()
            self.held.write(slots, {"right": found[slots]})

    def steer(self, forgetting: float, intransigence: float, *, ended: bool) -> None:
        """Move the factor by what has been measured."""
        move = _excess(forgetting, self.max_forgetting)
        if ended:
            move -= max(0.0, _excess(intransigence, self.max_intransigence))
        limit = math.log(self.bound)
        self.level = min(limit, max(-limit, self.level + self.rate * move))

    def forget(self, keys: Tensor) -> int:
        """Erase held-out rows, and count them."""
        return self.held.forget(keys)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes and outlives a step."""
        return {
            "held": self.held.state_dict(),
            "keyed": self.keyed,
            "level": self.level,
            "measured": self.measured,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            StateMismatch: the state's keys or kinds are not these; nothing is changed then.
        """
        state = {"keyed": False, **state}  # which older states do not have
        if state.keys() != {"held", "keyed", "level", "measured"}:
            raise StateMismatch(f"the state of Feedback has {sorted(state)}; it is another's")
        if type(state["level"]) is not float or type(state["measured"]) is not int:
            raise StateMismatch("level and measured must be numbers in a state of Feedback")
        if type(state["keyed"]) is not bool:
            raise StateMismatch(f"keyed is {state['keyed']!r}, not a bool, in a state of Feedback")
        self.held.load_state_dict(state["held"])
        self.keyed, self.level = state["keyed"], state["level"]
        self.measured = state["measured"]


def _drops(held: dict[str, Tensor], found: Tensor, period: int) -> tuple[float, float]:
    """Compute forgetting of the old periods and intransigence of the present one."""
    own = held["period"] == period
    then = held["right"][held["period"] < period].float().mean()
    lacking = then - found[own].float().mean() if bool(own.any()) else torch.zeros(())
    return forgotten(held, found, period), float(lacking)


def _excess(value: float, bound: float) -> float:
    return max(-1.0, min(1.0, (value - bound) / bound))


def _between(low: float, high: float, **settings: float) -> None:
    for name, value in settings.items():
        if not low < value <= high:
            raise ValueError(f"{name} is {value}; it must be above {low} and at most {high}")
