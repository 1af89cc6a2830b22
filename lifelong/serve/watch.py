"""What a new champion is held to for as long as it serves: the version before, a floor, a drop."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifelong.core.errors import StateMismatch
from lifelong.serve.guardrail import Guardrail

Correct = NDArray[np.bool_]
_LATELY = 500
"""Rows of the champion before on which its rate is measured."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What a new champion is held to besides the version before it, on the rows that come in.

    A world that moved, a new class or labels that are wrong for everybody lower these rates
    without any fault of the version, and going back then helps only against the labels. So neither
    is asked unless it is configured.

    Attributes:
        floor: the share of rows that it has to get right; None for any.
        drop: how far that may be below what the champion before had on its last 500 rows; None
            for any. Nothing is asked where that one had fewer than `rows`.
        rows: see `drop`.
        alpha: the probability that a version which holds what is asked is ever accused, of each.

    Raises:
        ValueError: a number is out of range.
    """

    floor: float | None = None
    drop: float | None = None
    rows: int = 200
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in ("floor", "drop"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is {value!r}; it lies between 0 and 1, or leave it out")
        if not 1 <= self.rows <= _LATELY or not 0 < self.alpha < 1:
            raise ValueError(
                f"rows {self.rows}, alpha {self.alpha}; give 1 to {_LATELY} rows, and an alpha "
                "between 0 and 1"
            )


class Watch:
    """Say when a version that was promoted is to be taken back, and why.

    Three alarms, each of which may be looked at after every row (see `Guardrail`): on the same
    rows it gets less right than the version before, less than the floor, or less than the version
    before got right of its own rows while it served.

    Args:
        tolerance: how far it may stay below the version before, on the same rows.
        asked: floor and drop.
        lately: what the version before got right of its last rows, while it served.

    Example:
        >>> watch = Watch(0.1, Guard(floor=0.6), [])
        >>> for _ in range(40):  # wrong for both: the version before is no better
        ...     watch.add(np.zeros(4, bool), np.zeros(4, bool))
        >>> watch.breached
        'the floor of 0.6'
    """

    def __init__(self, tolerance: float, asked: Guard, lately: list[bool]) -> None:
        # Both are scored on the same rows, 1 where the new one alone is right and 0 where the old
        # one alone is: rows that became harder for both, as a new class is, are no fault.
        self.guardrail = Guardrail(0.5, tolerance / 2)
        self.others: dict[str, Guardrail] = {}
        self._drop = None if asked.drop is None else f"a drop of {asked.drop:g}"
        if asked.floor is not None:
            self.others[f"the floor of {asked.floor:g}"] = Guardrail.above(asked.floor, asked.alpha)
        if asked.drop is not None and self._drop is not None and len(lately) >= asked.rows:
            measured = Guardrail.measured(sum(lately), len(lately), asked.alpha)
            if measured > asked.drop:  # or else there is nothing to fall to
                self.others[self._drop] = Guardrail(measured, asked.drop, asked.alpha / 2)

    def add(self, right: Correct, before: Correct | None) -> None:
        """Add rows that came in: whether this version and the one before got them right."""
        if before is not None:
            self.guardrail.add((1.0 + right.astype(float) - before.astype(float)) / 2)
        for one in self.others.values():
            one.add(right)

    @property
    def breached(self) -> str | None:
        """What was breached, in words; None if nothing was."""
        if self.guardrail.breached:
            return "its guardrail"
        return next((name for name, one in self.others.items() if one.breached), None)

    @property
    def rows(self) -> int:
        """After how many rows it was breached; how many there were, if it was not."""
        every = (self.guardrail, *self.others.values())
        found = [one.breached_at for one in every if one.breached_at is not None]
        return min(found, default=self.guardrail.n)

    @property
    def report(self) -> dict[str, Any]:
        """What is known, as JSON values: as `Guardrail.report`, and of the others by name."""
        others = {name: one.report for name, one in self.others.items()}
        return {**self.guardrail.report, "others": others} if others else self.guardrail.report

    def state_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        others = {name: one.state_dict() for name, one in self.others.items()}
        return {"guardrail": self.guardrail.state_dict(), "others": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another watch stood, as far as it was asked for the same.

        What it was not asked for begins now, but for a drop: nobody knows any more from what.

        Raises:
            StateMismatch: the state is none of a watch.
        """
        try:
            own, others = state["guardrail"], dict(state["others"])
            if own["tolerance"] == self.guardrail.tolerance:
                self.guardrail.load_state_dict(own)
            for name in others.keys() & {*self.others, self._drop}:
                self.others[name] = Guardrail(0.5)
                self.others[name].load_state_dict(others[name])
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(f"the state is no watch's: {error!r}") from error


def lately() -> deque[bool]:
    """Return what keeps whether a champion got its last rows right."""
    return deque(maxlen=_LATELY)
