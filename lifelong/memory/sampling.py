"""Choosing rows by chance: algorithm R, and numbers drawn without repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lifelong.memory.slots import NONE, Slots

LOOPED = 256
"""Rows up to which a loop over them is as fast as arrays, and in a step among others faster."""

FEW = 64
"""Rows below which a set finds repeats sooner than arrays do."""


def sample(
    chance: NDArray[np.float64], held: int, room: int, seen: int
) -> tuple[Slots, Slots, int, int]:
    """Do algorithm R: which rows to take, the place of each (the last to come has it), new counts.

    Args:
        chance: (rows,) uniform in [0, 1), one for each row offered.
        held: how many of the places are taken, the first ones.
        room: how many places there are.
        seen: rows before; if more than `room`, free places are filled at the rate room / seen.

    Example:
        >>> taken, places, held, seen = sample(np.array([0.9, 0.5, 0.1]), 2, 3, 2)
        >>> taken.tolist(), places.tolist(), held, seen
        ([0, 1, 2], [2, 2, 0], 3, 5)
    """
    rows, start = len(chance), 0
    new = NONE
    if held < room:
        gaps = room - held
        rate = chance * seen < room if seen > room else None
        new = np.arange(min(rows, gaps)) if rate is None else np.flatnonzero(rate)[:gaps]
        held += len(new)
        seen = max(seen, held)
        if held < room:
            return new, np.arange(held - len(new), held), held, seen
        start = int(new[-1]) + 1
    drawn = chance[start:] * np.arange(seen + 1, seen + 1 + rows - start)
    taken = (drawn < room).nonzero()[0]
    places = drawn[taken].astype(np.int64)
    seen += rows - start
    if len(new):
        taken = np.concatenate((new, taken + start))
        places = np.concatenate((np.arange(held - len(new), held), places))
    return taken, places, held, seen


def replaced(chance: Sequence[float], room: int, seen: int) -> dict[int, int]:
    """Do algorithm R where all places are taken: which row each place gets, the last that drew it.

    As `sample` does, in a loop: for a hundred rows that takes less than a dozen passes of numpy.

    Example:
        >>> replaced([0.9, 0.5, 0.1], 2, 2)  # the fourth row, and the fifth, draw places 2 and 0
        {0: 2}
    """
    places: dict[int, int] = {}
    for row, number in enumerate(chance):
        seen += 1
        place = int(number * seen)
        if place < room:
            places[place] = row
    return places


def distinct(
    rows: int, among: int, generator: torch.Generator, scratch: NDArray[np.int32]
) -> Slots:
    """Draw distinct numbers below `among`, uniformly and in random order, in time O(rows).

    Args:
        rows: how many; at most `among`.
        among: how many there are to draw from.
        generator: of the CPU.
        scratch: at least `among` elements, overwritten.

    Example:
        >>> drawn = distinct(3, 100, torch.Generator(), np.empty(100, dtype=np.int32))
        >>> len(set(drawn.tolist()))
        3
    """
    if among <= 4 * rows:
        permutation: Slots = torch.randperm(among, generator=generator).numpy()
        return permutation[:rows]
    drawn = NONE
    spare = rows * rows // among + 4
    while len(drawn) < rows:  # repeats are struck out; by symmetry what is left is uniform
        more = torch.randint(among, (rows - len(drawn) + spare,), generator=generator).numpy()
        drawn = np.concatenate((drawn, more)) if len(drawn) else more
        drawn = drawn[latest(drawn, scratch)]
    return drawn[:rows]


def latest(slots: Slots, scratch: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mark the last occurrence of each slot.

    Example:
        >>> latest(np.array([1, 0, 1]), np.empty(2, dtype=np.int32)).tolist()
        [False, True, True]
    """
    order = np.arange(len(slots), dtype=np.int32)
    scratch[slots] = order
    last: NDArray[np.bool_] = scratch[slots] == order
    return last


def keep_last(slots: Slots, source: Slots, scratch: NDArray[np.int32]) -> tuple[Slots, Slots]:
    """Let the last of the rows that chose the same slot have it.

    Example:
        >>> slots = np.array([1, 0, 1]), np.array([5, 6, 7])
        >>> [kept.tolist() for kept in keep_last(*slots, np.empty(2, dtype=np.int32))]
        [[0, 1], [6, 7]]
    """
    if len(slots) < FEW and len(set(slots.tolist())) == len(slots):
        return slots, source
    last = latest(slots, scratch)
    return slots[last], source[last]
