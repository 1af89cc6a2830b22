"""A policy that holds the latest rows of each group."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.memory.groups import arrivals, settled, shares, slots_of, split
from lifelong.memory.policy import Policy
from lifelong.memory.slots import NONE, Free, Slots, close_gaps, renumber
from lifelong.memory.state import expect


class Ring(Policy):
    """Hold the latest rows of each group, first in, first out.

    By default the groups seen so far share the capacity equally: a group may use what others do
    not need, and when the memory is full, rows of a group below its share take the place of the
    oldest rows of the groups above it. Odd slots go to the groups that have them already.
    With `groups=N`, each of at most N groups has its own ring of capacity // N slots from the
    start and the rest stay free, which is how GEM (Lopez-Paz & Ranzato 2017, arXiv:1706.08840; a
    group is a task), ER-Ring (Chaudhry et al. 2019, arXiv:1902.10486; a class) and Mammoth's ring
    buffer use the word.

    After `forget`, the other rows stay in their order, and the free slots are filled before any
    row is replaced. A group of which nothing is left is no longer counted.

    Args:
        capacity: how many rows may be held.
        groups: how many groups there will be; None to share among those that have come.

    Raises:
        ValueError: fewer than one group, or more groups than slots.
        InvalidBatch: from `place`, when more than `groups` groups come.

    Example:
        >>> ring, chance = Ring(4), torch.Generator()
        >>> ring.place(torch.tensor([0, 0, 0, 0]), 4, chance)[0].tolist()
        [0, 1, 2, 3]
        >>> ring.place(torch.tensor([1, 1]), 2, chance)[0].tolist()  # the two oldest rows give way
        [0, 1]
    """

    name = "ring"

    def __init__(self, capacity: int, groups: int | None = None) -> None:
        super().__init__(capacity)
        if groups is not None and not 1 <= groups <= capacity:
            raise ValueError(f"groups={groups} of {capacity} rows; give 1 to {capacity}, or None")
        self.groups = groups
        self._slots: dict[int, Slots] = {}  # of each group, oldest first from its start on
        self._start: dict[int, int] = {}

    @property
    def sharing(self) -> Collection[int]:
        """The groups that share the room at present."""
        return self._slots.keys()

    def place(
        self, group: Tensor | None, rows: int, generator: torch.Generator
    ) -> tuple[Slots, Slots | None]:
        """Take every row, but for those that later rows of the same batch replace."""
        del generator  # nothing is left to chance here
        order, parts = split(group, rows)
        new = arrivals(order, parts, self._slots)
        if self.groups is not None and len(self._slots) + len(new) > self.groups:
            raise InvalidBatch(
                f"groups {sorted([*self._slots, *new])} for a ring of groups={self.groups}; "
                "make the ring for as many groups as will come"
            )
        for id in new:
            self._slots[id], self._start[id] = NONE, 0
        if self.groups is None and self.held + rows <= self.capacity:
            return self._append(order, parts)
        offered = {id: order[start:stop] for id, start, stop in parts}
        room, freed = self._share(offered)
        free = Free(freed, self.held)
        slots, source = [], []
        for id, given in offered.items():
            last = given[max(len(given) - room[id], 0) :]
            slots.append(self._turn(id, len(last), room[id], free))
            source.append(last)
        self.held = free.held
        return np.concatenate(slots), np.concatenate(source)

    def _append(self, order: Slots, parts: list[tuple[int, int, int]]) -> tuple[Slots, Slots]:
        """Take every row, while there is room for all."""
        slots = np.arange(self.held, self.held + len(order))
        for id, start, stop in parts:
            held = self._slots[id]
            whole = held if self._start[id] == 0 else self._oldest(id, len(held))
            self._slots[id], self._start[id] = np.concatenate((whole, slots[start:stop])), 0
        self.held += len(order)
        return slots, order

    def _share(self, offered: Mapping[int, Slots]) -> tuple[dict[int, int], list[Slots]]:
        """Find what each group may hold, and free the oldest rows of those above it."""
        size = {id: len(slots) for id, slots in self._slots.items()}
        if self.groups is not None:
            most = self.capacity // self.groups
            return {id: min(size[id] + len(given), most) for id, given in offered.items()}, []
        if settled(size, offered, self.capacity):
            return size, []
        now = np.array(list(size.values()), dtype=np.int64)
        more = np.array([len(offered.get(id, NONE)) for id in size], dtype=np.int64)
        room = dict(zip(size, shares(now + more, now, self.capacity).tolist(), strict=True))
        freed = []
        for id, rows in size.items():
            if room[id] < rows:
                slots = self._oldest(id, rows)
                freed.append(slots[: rows - room[id]])
                self._slots[id], self._start[id] = slots[rows - room[id] :], 0
        return room, freed

    def _turn(self, id: int, rows: int, room: int, free: Free) -> Slots:
        """Give a group's rows slots: free ones up to its room, then those of its oldest rows."""
        held = len(self._slots[id])
        old = rows - (room - held)
        slots = self._oldest(id, old)
        if room == held:
            self._start[id] = (self._start[id] + old) % max(room, 1)
            return slots
        slots = np.concatenate((slots, free.take(room - held)))
        self._slots[id] = np.concatenate((self._oldest(id, held)[old:], slots))
        self._start[id] = 0
        return slots

    def _oldest(self, id: int, rows: int) -> Slots:
        slots, start = self._slots[id], self._start[id]
        first = slots[start : start + rows]
        return first if len(first) == rows else np.concatenate((first, slots[: rows - len(first)]))

    def _in_order(self) -> dict[int, Slots]:
        return {id: self._oldest(id, len(slots)) for id, slots in self._slots.items()}

    def forget(self, dropped: Slots) -> tuple[Slots, Slots]:
        """Drop rows, and groups of which nothing is left."""
        gaps, moved, renumbered = close_gaps(self.held, dropped)
        left = {id: renumber(slots, renumbered) for id, slots in self._in_order().items()}
        self._fill({id: slots for id, slots in left.items() if len(slots)})
        return gaps, moved

    def _fill(self, slots: dict[int, Slots]) -> None:
        self._slots = slots
        self._start = dict.fromkeys(slots, 0)
        self.held = sum(map(len, slots.values()))

    def shrink(self, capacity: int, generator: torch.Generator) -> tuple[Slots, Slots]:
        """Share the room anew; the oldest rows of the groups above their share leave."""
        del generator
        self._cut(capacity)
        freed = self._share({})[1] if self._slots else []
        dropped = np.sort(np.concatenate(freed)) if freed else NONE
        gaps, moved, renumbered = close_gaps(self.held, dropped)
        self._fill({id: renumber(s, renumbered) for id, s in self._in_order().items()})
        return gaps, moved

    def state_dict(self) -> dict[str, Any]:
        """Return each group's slots, oldest first."""
        return {
            "capacity": self.capacity,
            "groups": -1 if self.groups is None else self.groups,
            "ids": list(self._slots),
            "slots": [torch.from_numpy(slots.copy()) for slots in self._in_order().values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take each group's slots over."""
        expect(state, self.state_dict(), "ring policy", fixed=("capacity", "groups"))
        slots = slots_of(state, self.capacity)
        room = self.capacity // (self.groups or 1)
        if len(slots) > (self.groups or len(slots)) or any(len(s) > room for s in slots.values()):
            raise StateMismatch(f"{len(slots)} groups do not fit a ring of groups={self.groups}")
        self._fill(slots)
