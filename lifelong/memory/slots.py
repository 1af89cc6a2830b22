"""Slots: the places of rows, numbered from 0, worked out on the host.

Numpy does it, which takes a third of torch's time on short arrays.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Slots: TypeAlias = NDArray[np.int64]
"""Places of rows, (rows,)."""

NONE: Slots = np.empty(0, dtype=np.int64)


class Free:
    """Slots to be filled: those given up first, then those never used.

    Args:
        freed: slots whose rows have been given up.
        held: how many slots have been used so far, the first ones.

    Example:
        >>> free = Free([np.array([3])], 8)
        >>> free.take(3).tolist(), free.held
        ([3, 8, 9], 10)
    """

    def __init__(self, freed: list[Slots], held: int) -> None:
        self._freed = np.concatenate(freed) if freed else NONE
        self.held = held

    def take(self, rows: int) -> Slots:
        """Take some slots away."""
        first, self._freed = self._freed[:rows], self._freed[rows:]
        new = rows - len(first)
        self.held += new
        if not new:
            return first
        never_used = np.arange(self.held - new, self.held)
        return np.concatenate((first, never_used)) if len(first) else never_used


def close_gaps(held: int, dropped: Slots) -> tuple[Slots, Slots, Slots]:
    """Find the last rows' way into the gaps: gaps, who moves there, every slot's new number.

    Example:
        >>> [slots.tolist() for slots in close_gaps(4, np.array([0, 2]))]
        [[0], [3], [-1, 1, -1, 0]]
    """
    left = held - len(dropped)
    renumbered = np.arange(held)
    renumbered[dropped] = -1
    gaps = dropped[dropped < left]
    moved = left + np.flatnonzero(renumbered[left:] >= 0)
    renumbered[moved] = gaps
    return gaps, moved, renumbered


def renumber(slots: Slots, renumbered: Slots) -> Slots:
    """Give slots their new numbers and leave out those that are gone.

    Example:
        >>> renumber(np.array([3, 2, 1]), np.array([-1, 1, -1, 0])).tolist()
        [0, 1]
    """
    slots = renumbered[slots]
    return slots[slots >= 0]
