"""One column of rows: a tensor of its own, or one that lies in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.memory.paging import READ, WRITE, MappedFile
from lifelong.memory.slots import Slots

SHARED = {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
}
"""Element types that torch and numpy both have; the others are copied as integers of their size."""

AT_ONCE = 4096
"""Rows of a file that are read at a time."""

JOINED = 512
"""Bytes of a row from which on it pays to gather behind other rows, not to join them afterwards."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Column:
    """Hold one value of each row, zeros at first.

    On the host numpy moves the rows, each as one piece of bytes: that is five to fifteen times as
    fast as `Tensor.index_copy_`.

    Args:
        whole: the shape of all rows together.
        dtype: the element type.
        device: where the column lives.
        file: the bytes to use in place of new ones.

    Example:
        >>> column = Column(torch.Size([3, 2]), torch.uint8, torch.device("cpu"))
        >>> column.put(np.array([2, 0]), torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8))
        >>> column.take(torch.tensor([0, 1])).tolist()
        [[3, 4], [0, 0]]
    """

    def __init__(
        self,
        whole: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        file: MappedFile | None = None,
    ) -> None:
        self.file = file
        if file is None:
            self.data = torch.zeros(whole, dtype=dtype, device=device)
        else:
            size = prod(whole) * dtype.itemsize
            self.data = torch.frombuffer(file.map, dtype=torch.uint8)[:size].view(dtype).view(whole)
        self.shape = whole[1:]
        """Of one row."""
        self.size = dtype.itemsize * prod(self.shape)
        """Bytes of one row."""
        self._kind = np.dtype((np.void, self.size))
        self.array = as_bytes(self.data, self._kind) if self.data.is_cpu else None

    def put(self, slots: Slots, value: Tensor, source: Slots | None = None) -> None:
        """Write row `source[i]`, or `i`, of a value, on any device, to slot `slots[i]`."""
        if value.requires_grad:
            value = value.detach()
        if self.array is not None and value.is_cpu:
            given = as_bytes(value, self._kind)
            given = given if source is None else given[source]
        else:
            if source is not None:  # pick first, then move only what was picked
                value = value.index_select(0, _index(source, value.device))
            if self.array is None:
                there = self.data.device
                self.data.index_copy_(0, _index(slots, there), value.to(there, non_blocking=True))
                return
            given = as_bytes(value.cpu(), self._kind)
        if self.file is None:
            self.array[slots] = given
            return
        for span in self.spans(len(slots), WRITE):
            self.array[slots[span]] = given[span]

    def take(self, index: Tensor, behind: Tensor | None = None) -> Tensor:
        """Copy the rows of slots, int64 on the column's device; behind other rows, if given.

        Example:
            >>> column = Column(torch.Size([3]), torch.float32, torch.device("cpu"))
            >>> column.take(torch.tensor([2]), behind=torch.ones(2)).tolist()
            [1.0, 1.0, 0.0]
        """
        if behind is not None:
            alike = behind.dtype is self.data.dtype and not behind.requires_grad
            if alike and self.file is None and self.size >= JOINED:
                return self._gather(index, behind)
            return torch.cat((behind, self.take(index)))
        if self.file is None:
            return self.data.index_select(0, index)
        if self.file.budget is not None and len(index) and self.size and hasattr(os, "pread"):
            return self._read(index.numpy())
        taken = torch.empty(len(index), *self.shape, dtype=self.data.dtype)
        for span in self.spans(len(index), READ):
            torch.index_select(self.data, 0, index[span], out=taken[span])
        return taken

    def _gather(self, index: Tensor, behind: Tensor) -> Tensor:
        """Copy rows straight to where they shall be, which saves a pass over them."""
        front = len(behind)
        whole = self.data.new_empty(front + len(index), *self.shape)
        whole[:front] = behind
        torch.index_select(self.data, 0, index, out=whole[front:])
        return whole

    def _read(self, rows: Slots) -> Tensor:
        """Copy rows past the map of a file, a few thousand at a time."""
        assert self.file is not None
        taken = torch.empty(len(rows), *self.shape, dtype=self.data.dtype)
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            read = torch.frombuffer(self.file.read(rows[part], self.size), dtype=taken.dtype)
            taken[part] = read.view(-1, *self.shape)
        return taken

    def erase(self, start: int, stop: int) -> None:
        """Overwrite the slots from `start` up to `stop` with zeros, and a file at once."""
        for span in self.spans(stop - start, WRITE):
            self.data[start + span.start : start + span.stop] = 0
        if self.file is not None:
            self.file.map.flush()
            self.file.release()

    def copy(self, old: Column, fill: float) -> None:
        """Take over the rows of a column whose last dimension is smaller, and fill the rest."""
        width = old.shape[-1]
        for span in self.spans(len(self.data), WRITE):
            self.data[span, ..., :width] = old.data[span]
            self.data[span, ..., width:] = fill
            if old.file is not None:
                old.file.release()

    def spans(self, rows: int, around: int) -> Iterator[slice]:
        """Cut rows into pieces that each touch no more of a file than may stay mapped.

        Args:
            rows: how many.
            around: bytes that the system maps around an address, `READ` or `WRITE`.
        """
        if self.file is None:
            return iter((slice(0, rows),))
        return self.file.spans(rows, self.size + around)


def as_bytes(rows: Tensor, kind: np.dtype[np.void]) -> NDArray[Any]:
    """View the rows of a tensor of the host as pieces of bytes, (rows,); copy if it has gaps.

    Rows of one number are left as numbers, which are as fast.

    Example:
        >>> as_bytes(torch.zeros(3, 2), np.dtype((np.void, 8))).shape
        (3,)
    """
    if rows.dtype not in SHARED:
        rows = rows.resolve_conj().resolve_neg().view(BITS.get(rows.itemsize, rows.dtype))
    if rows.ndim == 1:
        return rows.numpy()
    return np.ndarray(rows.shape[0], kind, rows.contiguous().numpy())


def _index(slots: Slots, device: torch.device) -> Tensor:
    """Move indices to a device; a GPU takes them when it gets there, and the host does not wait."""
    return torch.from_numpy(slots).to(device, non_blocking=True)
