"""A policy that holds a uniform sample of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import StateMismatch
from lifelong.memory.policy import Policy
from lifelong.memory.sampling import LOOPED, keep_last, replaced, sample
from lifelong.memory.slots import Slots, close_gaps
from lifelong.memory.state import expect


class Reservoir(Policy):
    """Hold a uniform sample of all rows offered: each is as likely to be held as any other.

    The n-th row draws a place uniformly from 0 .. n-1 and takes it if it is below the capacity
    (algorithm R; Vitter 1985, doi:10.1145/3147.3165), here for all rows of a batch at once; where
    two rows draw the same place the later one has it, as if they had come one by one.

    After `forget`, every surviving row is held with the probability capacity / n that it had.
    The rows that come next are taken with that same probability, into the free slots, while n
    stands still; when the slots are full again, algorithm R goes on. So all surviving and later
    rows remain equally likely to be held, exactly while slots are free, and but for terms of order
    1 / capacity when the last one has been filled. (Random pairing, Gemulla, Lehner & Haas 2008,
    doi:10.1007/s00778-007-0065-y, would need to know which erased rows had been offered and were
    not held.) A memory that was never full, or holds nothing, fills with the next rows.

    Example:
        >>> reservoir = Reservoir(3)
        >>> reservoir.place(None, 2, torch.Generator())[0].tolist(), reservoir.held
        ([0, 1], 2)
    """

    name = "reservoir"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._seen = 0

    def place(
        self, group: Tensor | None, rows: int, generator: torch.Generator
    ) -> tuple[Slots, Slots | None]:
        """Take rows as algorithm R does."""
        del group  # makes no difference here
        if self._seen <= self.capacity >= self.held + rows:  # room for all: no chance involved
            slots = np.arange(self.held, self.held + rows)
            self.held += rows
            self._seen = self.held
            return slots, None
        chance = torch.rand(rows, generator=generator, dtype=torch.float64)
        if self.held == self.capacity and rows <= LOOPED:
            places = replaced(chance.tolist(), self.capacity, self._seen)
            self._seen += rows
            count = len(places)
            slots = np.fromiter(places.keys(), np.int64, count)
            return slots, np.fromiter(places.values(), np.int64, count)
        source, slots, self.held, self._seen = sample(
            chance.numpy(), self.held, self.capacity, self._seen
        )
        return keep_last(slots, source, self._scratch)

    def forget(self, dropped: Slots) -> tuple[Slots, Slots]:
        """Drop rows; what holds afterwards is said of the class."""
        filled = self._seen == self.held
        gaps, moved, _ = close_gaps(self.held, dropped)
        self.held -= len(dropped)
        if filled or self.held == 0:
            self._seen = self.held
        return gaps, moved

    def shrink(self, capacity: int, generator: torch.Generator) -> tuple[Slots, Slots]:
        """Draw those that stay from those held, which is a uniform sample of all, too."""
        seen = self._seen
        gaps = super().shrink(capacity, generator)
        self._seen = seen  # unlike erased rows, those that have left still count
        return gaps

    def state_dict(self) -> dict[str, Any]:
        """Return the two counts."""
        return {"capacity": self.capacity, "held": self.held, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the two counts over."""
        expect(state, Reservoir.state_dict(self), "reservoir policy", fixed=("capacity",))
        held, seen = state["held"], state["seen"]
        if not 0 <= held <= min(seen, self.capacity):
            raise StateMismatch(f"a reservoir of {self.capacity} holding {held} of {seen} rows")
        self.held, self._seen = held, seen
