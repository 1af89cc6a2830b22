"""Rows without a bound, to be found again by their ids."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lifelong.core.errors import StateMismatch

FIRST = 256
"""Rows that there is room for at first."""


class Ledger:
    """Keep every row that has an id, in columns whose room doubles as it runs out.

    Example:
        >>> ledger = Ledger()
        >>> ledger.add({"key": torch.tensor([5, -1, 6]), "y": torch.tensor([0, 1, 2])})
        >>> len(ledger), ledger.of(torch.tensor([6, 9]))["y"].tolist()
        (2, [2])
        >>> ledger.drop(torch.tensor([5]))
        >>> ledger.state_dict()["key"].tolist()
        [6]
    """

    def __init__(self) -> None:
        self._columns: dict[str, Tensor] = {}
        self._rows = 0

    def __len__(self) -> int:
        """Count the rows."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, without the room for others."""
        return sum(column[: self._rows].nbytes for column in self._columns.values())

    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Append copies of rows, but for those without an id.

        Args:
            columns: (rows, ...) each, always the same names; "key" has the ids, -1 for none.
        """
        named = columns["key"] != -1
        if not bool(named.any()):
            return
        more = {name: column.detach()[named] for name, column in columns.items()}
        start, self._rows = self._rows, self._rows + len(more["key"])
        for name, column in more.items():
            held = self._columns.get(name)
            if held is None or len(held) < self._rows:
                room = max(FIRST, 2 * self._rows)
                wider = column.new_zeros(room, *column.shape[1:])
                if held is not None:
                    wider[:start] = held[:start]
                self._columns[name] = held = wider
            held[start : self._rows] = column

    def of(self, keys: Tensor) -> dict[str, Tensor]:
        """Copy the rows with these ids; {} where nothing was ever added."""
        return {name: column[: self._rows][self._among(keys)] for name, column in self._held()}

    def drop(self, keys: Tensor) -> None:
        """Erase the rows with these ids; what they took is overwritten."""
        if not self._rows:
            return
        stay = ~self._among(keys)
        left = int(stay.sum())
        for _, column in self._held():
            column[:left] = column[: self._rows][stay]
            column[left : self._rows] = 0
        self._rows = left

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows, in the order in which they came."""
        return {name: column[: self._rows] for name, column in self._held()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take rows over; they are copied.

        Raises:
            StateMismatch: the columns differ in rows, or have no ids.
        """
        if state and ("key" not in state or len({len(column) for column in state.values()}) > 1):
            told = {name: tuple(column.shape) for name, column in state.items()}
            raise StateMismatch(f"columns {told}; each must have as many rows as there are ids")
        self._columns = {name: column.clone() for name, column in state.items()}
        self._rows = len(state["key"]) if state else 0

    def _held(self) -> list[tuple[str, Tensor]]:
        return list(self._columns.items())

    def _among(self, keys: Tensor) -> Tensor:
        own = self._columns["key"][: self._rows]
        return torch.isin(own, keys.to(own.device))
