"""Rows without a bound, to be found again by their ids."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch

FIRST = 256
"""Rows that there is room for at first."""


class Ledger:
    """Keep every row that has an id, in columns whose room doubles as it runs out.

    Args:
        *names: of the columns; "key", which has the ids, must be one of them.

    Example:
        >>> ledger = Ledger("key", "y")
        >>> ledger.add({"key": torch.tensor([5, -1, 6]), "y": torch.tensor([0, 1, 2])})
        >>> len(ledger), ledger.of(torch.tensor([6, 9]))["y"].tolist()
        (2, [2])
        >>> erased = ledger.drop(torch.tensor([5]))
        >>> ledger.state_dict()["key"].tolist()
        [6]
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._columns: dict[str, Tensor] = {}
        self._rows = 0

    def __len__(self) -> int:
        """Count the rows."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, without the room for others."""
        return sum(column[: self._rows].nbytes for column in self._columns.values())

    def check(self, columns: Mapping[str, Tensor]) -> None:
        """Make sure that rows could be added.

        Raises:
            InvalidBatch: the columns are others, or of another type or shape than those held.
        """
        if columns.keys() != {*self.names}:
            raise InvalidBatch(f"columns {sorted(columns)}; it has {sorted(self.names)}")
        for name, held in self._columns.items():
            column = columns[name]
            if column.dtype != held.dtype or column.shape[1:] != held.shape[1:]:
                raise InvalidBatch(
                    f"{name} is {column.dtype} of shape {tuple(column.shape)}, and what is kept "
                    f"of earlier rows {held.dtype} of shape (rows, {tuple(held.shape[1:])}); "
                    "features must stay what they are"
                )

    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Append copies of rows, but for those without an id.

        Args:
            columns: (rows, ...) each; "key" has the ids, -1 for none.

        Raises:
            InvalidBatch: as `check`; nothing is added.
        """
        self.check(columns)
        named = columns["key"] != -1
        if not bool(named.any()):
            return
        more = {name: column.detach()[named] for name, column in columns.items()}
        rows = self._rows + len(more["key"])
        if not self._columns or len(self._columns["key"]) < rows:
            room = max(FIRST, 2 * rows)
            wider = {n: column.new_zeros(room, *column.shape[1:]) for n, column in more.items()}
            for name, held in self._columns.items():
                wider[name][: self._rows] = held[: self._rows]
            self._columns = wider
        for name, column in more.items():
            self._columns[name][self._rows : rows] = column
        self._rows = rows

    def of(self, keys: Tensor) -> dict[str, Tensor]:
        """Copy the rows with these ids; {} where nothing was ever added."""
        return {n: column[: self._rows][self._among(keys)] for n, column in self._columns.items()}

    def at(self, places: Tensor) -> dict[str, Tensor]:
        """Copy the rows at these places, in the order in which they came, from 0."""
        return {name: column[: self._rows][places] for name, column in self._columns.items()}

    def drop(self, keys: Tensor) -> int:
        """Erase the rows with these ids, and count them; what they took is overwritten."""
        if not self._rows:
            return 0
        stay = ~self._among(keys)
        left = int(stay.sum())
        for column in self._columns.values():
            column[:left] = column[: self._rows][stay]
            column[left : self._rows] = 0
        gone, self._rows = self._rows - left, left
        return gone

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows, in the order in which they came."""
        return {name: column[: self._rows] for name, column in self._columns.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take rows over; they are copied.

        Raises:
            StateMismatch: the columns are others, differ in rows, or the ids are no integers.
        """
        told = {name: (column.dtype, tuple(column.shape)) for name, column in state.items()}
        if state and (
            state.keys() != {*self.names}
            or len({column.shape[:1] for column in state.values()}) > 1
            or state["key"].dtype != torch.int64
            or state["key"].ndim != 1
        ):
            raise StateMismatch(
                f"kept rows have {told}; there must be {sorted(self.names)}, with int64 ids of "
                "shape (rows,) and as many rows in each"
            )
        self._columns = {name: column.clone() for name, column in state.items()}
        self._rows = len(state["key"]) if state else 0

    def _among(self, keys: Tensor) -> Tensor:
        own = self._columns["key"][: self._rows]
        return torch.isin(own, keys.to(own.device))
