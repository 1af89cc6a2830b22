"""Columns of a fixed number of rows, allocated once: in memory, on a GPU, or in files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch
from lifelong.memory.column import Column
from lifelong.memory.paging import MappedFile, share_budget
from lifelong.memory.slots import Slots

RESIDENT = 16 << 20
"""Bytes of files that all columns together may keep mapped between two releases."""

SHIFTED = 4096
"""Rows copied at a time from slots to slots."""


class Rows:
    """Keep up to `capacity` rows in columns that are allocated once and written in place.

    With `path`, each column is a file of that folder, mapped into memory and shared with the
    system's page cache; its pages are unmapped after every few hundred rows touched, so that the
    process stays small whatever the capacity. The files are working storage, replaced when a new
    object takes the folder: what should outlive the process belongs in a checkpoint.

    Args:
        capacity: how many rows there is room for.
        example: one or more rows of each column, rows first; they give names, element types and
            shapes, and are not kept.
        device: where the columns live; a GPU's are indexed there.
        path: a folder for the columns' files; the device must then be the CPU.

    Raises:
        ValueError: the capacity is not positive, or a path is given with another device.
        InvalidBatch: the example has no columns, or columns that differ in length.

    Example:
        >>> rows = Rows(4, {"x": torch.zeros(1, 2), "y": torch.zeros(1, dtype=torch.int64)})
        >>> rows.write(torch.tensor([2, 0]), {"x": torch.ones(2, 2), "y": torch.tensor([7, 8])})
        >>> rows.read(torch.tensor([0, 1, 2]))["y"].tolist()
        [8, 0, 7]
    """

    def __init__(
        self,
        capacity: int,
        example: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
    ) -> None:
        check_place(capacity, device, path)
        self.capacity = capacity
        self.device = torch.device(device)
        self.path = None if path is None else Path(path)
        if not example:
            raise InvalidBatch("an example without columns; give one row or more of each column")
        same_length(example)
        self._columns: dict[str, Column] = {}
        for name, column in example.items():
            self._columns[name] = self._column(name, column.dtype, column.shape[1:])
        self._share()

    @property
    def columns(self) -> dict[str, Tensor]:
        """Every column whole, by name, each (capacity, ...): the storage itself, not a copy."""
        return {name: column.data for name, column in self._columns.items()}

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take, in memory or in files."""
        return sum(column.data.nbytes for column in self._columns.values())

    def check(self, columns: Mapping[str, Tensor]) -> int:
        """Count the rows offered, after making sure that they fit the columns.

        Raises:
            InvalidBatch: a column is missing or unknown, or differs in element type, in the shape
                of its rows or in length from what it must be.
        """
        if columns.keys() != self._columns.keys():
            raise InvalidBatch(
                f"columns {sorted(columns)}; this memory has {sorted(self._columns)}: "
                "give it all of these and no others"
            )
        return self.check_some(columns)

    def check_some(self, columns: Mapping[str, Tensor]) -> int:
        """Check as `check` does, but let columns be missing, such as outputs to come.

        Raises:
            InvalidBatch: as `check`.
        """
        rows = -1
        for name, value in columns.items():
            shape, column = value.shape, self._columns.get(name)
            if column is None:
                raise InvalidBatch(
                    f"column {name!r} is unknown; this memory has {sorted(self._columns)}"
                )
            if value.dtype is not column.data.dtype or shape[1:] != column.shape or not shape:
                raise InvalidBatch(
                    f"column {name!r} is {value.dtype} of shape {tuple(shape)}; it must be "
                    f"{column.data.dtype} of shape {_shape(column.shape)}"
                )
            if shape[0] != rows:
                if rows >= 0:
                    same_length(columns)
                rows = shape[0]
        return rows

    def check_values(self, columns: Mapping[str, Tensor]) -> None:
        """Raise `InvalidBatch` for values that cannot be stored; as they come, all can."""

    def write(self, slots: Tensor, columns: Mapping[str, Tensor], some: bool = False) -> None:
        """Write a row of every column to each slot.

        Args:
            slots: (rows,) int64, no slot twice.
            columns: (rows, ...) each.
            some: whether columns may be missing, and stay as they are.

        Raises:
            InvalidBatch: the columns do not fit, or there is not one row a slot.
            ValueError: a slot is outside the capacity. Nothing is written then, nor before.
        """
        rows = self.check_some(columns) if some else self.check(columns)
        slots = self._slots(slots)
        if len(slots) != rows:
            raise InvalidBatch(f"{rows} rows for {len(slots)} slots; give each slot one row")
        self.put(slots.numpy(), columns)

    def put(self, slots: Slots, columns: Mapping[str, Tensor], source: Slots | None = None) -> None:
        """Write rows that `check` has passed: row `source[i]` of the columns to slot `slots[i]`.

        Args:
            slots: (rows,), on the host, each within the capacity and none twice.
            columns: (offered, ...) each.
            source: (rows,) which of the offered rows to write; None for all of them.
        """
        for name, column in columns.items():
            self._columns[name].put(slots, column, source)

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copy the rows of some slots, (rows, ...) each, on the device of the columns.

        Raises:
            ValueError: a slot is outside the capacity.
        """
        return self.take(self._slots(slots).numpy())

    def take(self, slots: Slots, behind: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Copy the rows of slots on the host that are known to be within the capacity.

        Args:
            slots: (rows,) int64.
            behind: rows that fit, on the same device, for the columns named to begin with.
        """
        index = torch.from_numpy(slots)
        if self.device.type != "cpu":
            index = index.to(self.device, non_blocking=True)
        if behind is None:
            return {name: column.take(index) for name, column in self._columns.items()}
        return {
            name: column.take(index, behind.get(name)) for name, column in self._columns.items()
        }

    def stored(self, rows: int) -> dict[str, Tensor]:
        """Copy the first rows as they lie in their slots."""
        if self.path is None:
            return {name: column.data[:rows].clone() for name, column in self._columns.items()}
        index = torch.arange(rows)
        return {name: column.take(index) for name, column in self._columns.items()}

    def first(self, rows: int) -> dict[str, Tensor]:
        """Copy the first rows, in the order of their slots."""
        return self.stored(rows)

    def joined(self, slots: Tensor, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy the rows of some slots, and put others behind them, all as they are stored."""
        held = Rows.take(self, self._slots(slots).numpy())
        return {name: torch.cat((part, columns[name].to(part))) for name, part in held.items()}

    def shift(self, slots: Slots, to: Slots) -> None:
        """Copy the rows of some slots to others, a few thousand at a time."""
        for start in range(0, len(slots), SHIFTED):
            part = slice(start, start + SHIFTED)
            index = torch.from_numpy(slots[part]).to(self.device)
            for column in self._columns.values():
                column.put(to[part], column.take(index))

    def erase(self, start: int, stop: int) -> None:
        """Overwrite the slots from `start` up to `stop` with zeros, and the files at once."""
        for column in self._columns.values():
            column.erase(start, stop)

    def widen(self, name: str, width: int, fill: float) -> None:
        """Make a column's rows wider, keeping what they hold: for logits when a head grows.

        Args:
            name: which column; its rows must have a dimension to widen, the last one.
            width: the new size of that dimension; the old one changes nothing.
            fill: the value of every new element.

        Raises:
            ValueError: there is no such column, it has no dimension to widen, or it is wider.

        Example:
            >>> rows = Rows(2, {"logits": torch.ones(1, 2)})
            >>> rows.widen("logits", 3, fill=-1)
            >>> rows.read(torch.tensor([0]))["logits"].tolist()
            [[0.0, 0.0, -1.0]]
        """
        self.widened(name, width)
        old = self._columns[name]
        if width == old.shape[-1]:
            return
        new = self._column(name, old.data.dtype, torch.Size((*old.shape[:-1], width)))
        new.copy(old, fill)
        self._columns[name] = new
        self._share()

    def widened(self, name: str, width: int) -> dict[str, Tensor]:
        """Tell what the columns would be if one were wider, as examples of no rows.

        Raises:
            ValueError: as `widen`.
        """
        if name not in self._columns:
            raise ValueError(f"no column {name!r} to widen; there are {sorted(self._columns)}")
        shape = self._columns[name].shape
        if not shape or width < shape[-1]:
            raise ValueError(
                f"column {name!r} has shape {_shape(shape)} and cannot be widened to {width}; "
                "give a width no smaller than its last dimension"
            )
        like = {other: column.data[:0] for other, column in self._columns.items()}
        return {**like, name: like[name].new_empty(0, *shape[:-1], width)}

    def move(self, path: Path) -> None:
        """Move the files to another folder, over those that are there."""
        if self.path is not None:
            for name in self._columns:
                os.replace(_file(self.path, name), _file(path, name))
            self.path = path

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        if self.path is not None:
            raise TypeError(
                f"rows in the files of {self.path} cannot be copied in memory; "
                "load their state into a memory with a path of its own"
            )
        twin = self.resized(self.capacity)
        memo[id(self)] = twin
        return twin

    def resized(self, capacity: int) -> Rows:
        """Copy the first rows into as many new slots."""
        twin = Rows(capacity, self.columns, device=self.device, path=self.path)
        twin.fill(self, capacity)
        return twin

    def fill(self, other: Rows, rows: int) -> None:
        """Take over the first rows of others as they are stored, a few thousand at a time."""
        for start in range(0, rows, SHIFTED):
            slots = np.arange(start, min(start + SHIFTED, rows))
            index = torch.from_numpy(slots).to(self.device)
            for name, column in self._columns.items():
                column.put(slots, other._columns[name].take(index))

    def _column(self, name: str, dtype: torch.dtype, shape: torch.Size) -> Column:
        whole = torch.Size((self.capacity, *shape))
        file = None
        if self.path is not None:
            file = MappedFile(_file(self.path, name), prod(whole) * dtype.itemsize)
        return Column(whole, dtype, self.device, file)

    def _share(self) -> None:
        files = [column.file for column in self._columns.values() if column.file is not None]
        share_budget(files, RESIDENT)

    def _slots(self, slots: Tensor) -> Tensor:
        slots = slots.cpu()
        if slots.dtype != torch.int64 or slots.ndim != 1:
            raise ValueError(
                f"slots are {slots.dtype} of shape {tuple(slots.shape)}; "
                "they must be int64 of shape (rows,)"
            )
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < self.capacity:
            raise ValueError(
                f"slots from {int(slots.min())} to {int(slots.max())}; "
                f"they must lie between 0 and {self.capacity - 1}"
            )
        return slots


def same_length(columns: Mapping[str, Tensor]) -> int:
    """Count the rows of columns.

    Raises:
        InvalidBatch: they differ in length, or one has no rows to count.
    """
    lengths = {name: value.shape[0] if value.ndim else None for name, value in columns.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        told = ", ".join(f"{name} has {rows}" for name, rows in lengths.items())
        raise InvalidBatch(f"the columns differ in rows: {told}; give each the same")
    return next(rows for rows in lengths.values() if rows is not None)


def check_place(capacity: int, device: torch.device | str, path: Path | str | None) -> None:
    """Raise `ValueError` unless there can be so many rows in such a place."""
    if capacity <= 0:
        raise ValueError(f"capacity {capacity}; it must be at least 1 row, or leave the memory out")
    if path is not None and torch.device(device).type != "cpu":
        raise ValueError(f"path {path} with device {device}; files are read on the CPU: leave one")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='')}.bin"


def _shape(shape: torch.Size) -> str:
    return "(rows, " + ", ".join(str(size) for size in shape) + ")" if shape else "(rows,)"
