"""A policy that holds equally many rows of each group, sampled uniformly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core.errors import StateMismatch
from lifelong.memory.groups import arrivals, settled, shares, slots_of, split
from lifelong.memory.policy import Policy
from lifelong.memory.sampling import distinct, keep_last, sample
from lifelong.memory.slots import NONE, Free, Slots, close_gaps, renumber
from lifelong.memory.state import expect


class Balanced(Policy):
    """Hold equally many rows of each group, and of each group a uniform sample.

    Class-balancing reservoir sampling (Chrysakis & Moens 2020, ICML, PMLR 119:1952-1961): until
    the memory is full every row is held; then a row of a group below its share takes the place of
    a random row of the largest group, and the n-th row of a group at its share is held with the
    probability share / n, in place of a random one of its own. Here the shares of a batch are
    found at once (all groups up to a common level, odd slots to those that have them already),
    then each group does algorithm R on its rows; one by one, the shares differ by a row at most.

    After `forget`, the free slots are used before any row is replaced: a group that held all it
    saw fills up with its next rows; a group that had to choose takes its next rows with the
    probability share / n until its slots are full, as `Reservoir` does, so that its sample stays
    uniform. When a group is erased whole it is no longer counted and the others share its room;
    as the rows they once passed over are gone, they fill it with later rows, each held with the
    probability of the new share, and earlier ones with that of the old.

    Example:
        >>> balanced, chance = Balanced(4), torch.Generator().manual_seed(0)
        >>> balanced.place(torch.tensor([0, 0, 0, 0]), 4, chance)[0].tolist()
        [0, 1, 2, 3]
        >>> len(balanced.place(torch.tensor([1, 1]), 2, chance)[0])
        2
    """

    name = "balanced"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._slots: dict[int, Slots] = {}  # of each group, in the order of its reservoir's places
        self._room: dict[int, int] = {}  # of each group, its share
        self._seen: dict[int, int] = {}  # of each group, the n of algorithm R

    @property
    def sharing(self) -> Collection[int]:
        """The groups that share the room at present."""
        return self._slots.keys()

    def place(
        self, group: Tensor | None, rows: int, generator: torch.Generator
    ) -> tuple[Slots, Slots | None]:
        """Take all rows of groups below their share, and some of the others."""
        order, parts = split(group, rows)
        for id in arrivals(order, parts, self._slots):
            self._slots[id], self._room[id], self._seen[id] = NONE, 0, 0
        if sum(self._seen.values()) == self.held <= self.capacity - rows:
            return self._append(order, parts)
        offered = {id: stop - start for id, start, stop in parts}
        freed = []
        if not settled(self._room, offered, self.capacity):
            freed = self._share(offered, generator)
        chance = torch.rand(rows, generator=generator, dtype=torch.float64).numpy()
        if self.held == self.capacity and not freed:
            slots, taken = self._replace(offered, chance)
        else:
            slots, taken = self._fill_up(parts, chance, Free(freed, self.held))
        return keep_last(slots, order[taken], self._scratch)

    def _append(self, order: Slots, parts: list[tuple[int, int, int]]) -> tuple[Slots, Slots]:
        """Take every row, while all that came so far are held and there is room for these too."""
        slots = np.arange(self.held, self.held + len(order))
        for id, start, stop in parts:
            self._slots[id] = np.concatenate((self._slots[id], slots[start:stop]))
            self._room[id] = self._seen[id] = len(self._slots[id])
        self.held += len(order)
        return slots, order

    def _share(self, offered: Mapping[int, int], generator: torch.Generator) -> list[Slots]:
        """Set the shares anew and free random rows of the groups above theirs."""
        wanted = np.array([seen + offered.get(id, 0) for id, seen in self._seen.items()])
        room = shares(wanted, np.array(list(self._room.values())), self.capacity).tolist()
        freed = []
        for (id, before), after in zip(self._room.items(), room, strict=True):
            if after < before:
                gone = distinct(before - after, before, generator, self._scratch)
                gone = gone[gone < len(self._slots[id])]  # the others were free already
                freed.append(self._slots[id][gone])
                self._slots[id] = np.delete(self._slots[id], gone)
        self._room = dict(zip(self._room, room, strict=True))
        return freed

    def _fill_up(
        self, parts: list[tuple[int, int, int]], chance: NDArray[np.float64], free: Free
    ) -> tuple[Slots, Slots]:
        """Do algorithm R for each group in turn; what it has room for goes into free slots."""
        slots, source = [], []
        for id, start, stop in parts:
            held = len(self._slots[id])
            taken, places, now, self._seen[id] = sample(
                chance[start:stop], held, self._room[id], self._seen[id]
            )
            if now > held:
                self._slots[id] = np.concatenate((self._slots[id], free.take(now - held)))
            slots.append(self._slots[id][places])
            source.append(taken + start)
        self.held = free.held
        return np.concatenate(slots), np.concatenate(source)

    def _replace(
        self, offered: Mapping[int, int], chance: NDArray[np.float64]
    ) -> tuple[Slots, Slots]:
        """Do algorithm R for all groups at once, when nothing but rows changes."""
        counts = np.array(list(offered.values()))
        stops = counts.cumsum()
        before = np.array([self._seen[id] for id in offered])
        room = np.array([self._room[id] for id in offered]).repeat(counts)
        n = np.arange(1, len(chance) + 1) + (before + counts - stops).repeat(counts)
        for id, rows in offered.items():
            self._seen[id] += rows
        drawn = chance * n
        taken = (drawn < room).nonzero()[0]
        if not len(taken):
            return NONE, NONE
        places = drawn[taken].astype(np.int64)
        cuts = taken.searchsorted(stops).tolist()
        slots = [
            self._slots[id][places[start:stop]]
            for id, start, stop in zip(offered, [0, *cuts[:-1]], cuts, strict=True)
            if start < stop
        ]
        return np.concatenate(slots), taken

    def forget(self, dropped: Slots) -> tuple[Slots, Slots]:
        """Drop rows; what holds afterwards is said of the class."""
        gaps, moved, renumbered = close_gaps(self.held, dropped)
        left: dict[int, tuple[Slots, int, int]] = {}
        for id, before in self._slots.items():
            slots, room, seen = renumber(before, renumbered), self._room[id], self._seen[id]
            if seen == len(before):
                room = seen = len(slots)
            if len(slots) or not len(before):
                left[id] = slots, room, seen
        self._set(left)
        return gaps, moved

    def _set(self, groups: Mapping[int, tuple[Slots, int, int]]) -> None:
        self._slots = {id: slots for id, (slots, _, _) in groups.items()}
        self._room = {id: room for id, (_, room, _) in groups.items()}
        self._seen = {id: seen for id, (_, _, seen) in groups.items()}
        self.held = sum(map(len, self._slots.values()))

    def shrink(self, capacity: int, generator: torch.Generator) -> tuple[Slots, Slots]:
        """Share the room anew; random rows of the groups above their share leave."""
        self.capacity = capacity
        freed = self._share({}, generator) if self._slots else []
        self._cut(capacity)  # after the draw, which is from all rows held
        dropped = np.sort(np.concatenate(freed)) if freed else NONE
        gaps, moved, renumbered = close_gaps(self.held, dropped)
        groups = self._slots.items()
        left = {id: (renumber(s, renumbered), self._room[id], self._seen[id]) for id, s in groups}
        self._set(left)
        return gaps, moved

    def state_dict(self) -> dict[str, Any]:
        """Return each group's slots, share and count."""
        return {
            "capacity": self.capacity,
            "ids": list(self._slots),
            "slots": [torch.from_numpy(slots.copy()) for slots in self._slots.values()],
            "room": list(self._room.values()),
            "seen": list(self._seen.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take each group's slots, share and count over."""
        expect(state, self.state_dict(), "balanced policy", fixed=("capacity",))
        slots = slots_of(state, self.capacity)
        room, seen = state["room"], state["seen"]
        counts = all(type(count) is int for count in (*room, *seen))
        if (
            not counts
            or not len(room) == len(seen) == len(slots)
            or sum(room) > self.capacity
            or any(len(s) > min(r, n) for s, r, n in zip(slots.values(), room, seen, strict=True))
        ):
            raise StateMismatch(f"shares {room} of counts {seen} do not fit the rows held")
        self._set(dict(zip(slots, zip(slots.values(), room, seen, strict=True), strict=True)))
