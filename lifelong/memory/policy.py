"""What every policy does: choose which of the rows offered stay, and in whose place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.memory.sampling import distinct
from lifelong.memory.slots import Slots


class Policy(ABC):
    """Choose the rows that stay; a subclass says which.

    A policy sees no row, only how many come and to which group each belongs. The rows held are
    always those of slots 0 to `held` - 1, so that drawing from a memory needs no list of them.

    Args:
        capacity: how many rows may be held.

    Raises:
        ValueError: the capacity is not positive.
    """

    name: ClassVar[str]

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise ValueError(f"capacity {capacity}; a memory must have room for at least 1 row")
        self.capacity = capacity
        self.held = 0
        self._scratch: NDArray[np.int32] = np.empty(capacity, dtype=np.int32)

    @abstractmethod
    def place(
        self, group: Tensor | None, rows: int, generator: torch.Generator
    ) -> tuple[Slots, Slots | None]:
        """Choose slots for some of the rows offered.

        Args:
            group: (rows,) integers, what each row belongs to: a class, a task; None for one group.
            rows: how many are offered, in the order of arrival.
            generator: of the CPU; all chance comes from it.

        Returns:
            The slots to write, none twice, and which of the offered rows goes to each; None for
            all of them in order.
        """

    @abstractmethod
    def forget(self, dropped: Slots) -> tuple[Slots, Slots]:
        """Drop the rows of some slots (ascending) and close the gaps with the last rows held.

        Returns:
            The gaps, and the slots of the rows that move into them. The slots from the new `held`
            on are free, and the next to be used.
        """

    @property
    def sharing(self) -> Collection[int] | None:
        """The groups that share the room at present; None where groups make no difference."""
        return None

    def shrink(self, capacity: int, generator: torch.Generator) -> tuple[Slots, Slots]:
        """Hold at most so many rows from now on; those above leave by chance, as in `forget`.

        Args:
            capacity: how many rows may be held, at most as many as before.
            generator: of the CPU; all chance comes from it.

        Returns:
            As `forget`: the gaps, and the slots of the rows that move into them.
        """
        surplus = max(self.held - capacity, 0)
        dropped = distinct(surplus, self.held, generator, self._scratch)
        gaps = self.forget(np.sort(dropped))
        self._cut(capacity)
        return gaps

    def _cut(self, capacity: int) -> None:
        self.capacity = capacity
        self._scratch = np.empty(capacity, dtype=np.int32)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that decides what happens next, as tensors, numbers, strings and lists."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raise `StateMismatch`, changing nothing, if it does not fit."""
