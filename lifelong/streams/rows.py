"""Rows of data at rest: what batches are taken from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong.core.batch import Batch, Inputs
from lifelong.core.errors import InvalidBatch


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labelled rows in columns. Iterating gives them in order, in batches, as often as one likes.

    Attributes:
        x: inputs, one tensor or a dict of them, each of shape (rows, ...).
        y: targets, (rows, ...); class ids (int64) in classification.
        task: (rows,) int64, the task each row belongs to.
        key: (rows,) int64, the row's id: unique over a data set, training and test rows together.

    Raises:
        InvalidBatch: the columns differ in rows, or an id is no integer.

    Example:
        >>> rows = Rows.of(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
        >>> len(rows), [len(batch) for batch in rows.batches(2)]
        (5, [2, 2, 1])
    """

    x: Inputs
    y: Tensor
    task: Tensor
    key: Tensor

    def __post_init__(self) -> None:
        columns = {**_named(self.x), "y": self.y, "task": self.task, "key": self.key}
        lengths = {name: c.shape[0] if c.ndim else 0 for name, c in columns.items()}
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{name} has {rows}" for name, rows in lengths.items())
            raise InvalidBatch(f"columns differ in rows: {told}; give each the same number")
        for name in ("task", "key"):
            column = columns[name]
            if column.dtype != torch.int64 or column.ndim != 1:
                raise InvalidBatch(
                    f"{name} is {column.dtype} of shape {tuple(column.shape)}; "
                    "it must be int64 of shape (rows,)"
                )

    @classmethod
    def of(cls, x: Inputs, y: Tensor, task: int = 0, first_key: int = 0) -> Rows:
        """Make rows of one task, with keys that count from `first_key`."""
        count = y.shape[0] if y.ndim else 0
        key = torch.arange(first_key, first_key + count)
        return cls(x, y, torch.full((count,), task, dtype=torch.int64), key)

    def __len__(self) -> int:
        return self.y.shape[0]

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, size: int = 256) -> Iterator[Batch]:
        """Pass over the rows in order; the batches are views of the rows, not copies.

        Raises:
            ValueError: `size` is less than 1.
        """
        if size < 1:
            raise ValueError(f"a batch of {size} rows; it must have 1 or more")
        return self._batches(size)

    def _batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            part = self.subset(slice(start, start + size))
            yield Batch(part.x, part.y, part.task, len(part), part.key)

    def take(self, index: Tensor) -> Batch:
        """Copy the rows at the positions `index`, (rows,) int64, into a batch: one gather a column.

        Example:
            >>> Rows.of(torch.zeros(3, 2), torch.tensor([5, 6, 7])).take(torch.tensor([2, 0])).y
            tensor([7, 5])
        """
        x: Inputs
        if isinstance(self.x, Tensor):
            x = self.x.index_select(0, index)
        else:
            x = {name: column.index_select(0, index) for name, column in self.x.items()}
        return Batch(
            x,
            self.y.index_select(0, index),
            self.task.index_select(0, index),
            index.shape[0],
            self.key.index_select(0, index),
        )

    def subset(self, index: Tensor | slice) -> Rows:
        """Take some of the rows: by positions or by a mask (a copy), or by a slice (a view).

        Example:
            >>> Rows.of(torch.zeros(3, 2), torch.tensor([5, 6, 7])).subset(slice(1, None)).y
            tensor([6, 7])
        """
        x: Inputs
        if isinstance(self.x, Tensor):
            x = self.x[index]
        else:
            x = {name: column[index] for name, column in self.x.items()}
        return Rows(x, self.y[index], self.task[index], self.key[index])

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Join rows, one part after the other; keys and task ids stay.

        Raises:
            ValueError: there are no parts.
            InvalidBatch: the parts do not have the same inputs.

        Example:
            >>> rows = Rows.of(torch.zeros(3, 2), torch.tensor([5, 6, 7]))
            >>> Rows.concatenate([rows, rows]).y
            tensor([5, 6, 7, 5, 6, 7])
        """
        if not parts:
            raise ValueError("no rows to concatenate; give one part or more")
        names = [sorted(_named(part.x)) for part in parts]
        if any(these != names[0] for these in names):
            raise InvalidBatch(f"the inputs of the parts differ: {names}; give each the same")
        x: Inputs
        if isinstance(parts[0].x, Tensor):
            x = torch.cat([part.x for part in parts if isinstance(part.x, Tensor)])
        else:
            dicts = [part.x for part in parts if isinstance(part.x, dict)]
            x = {name: torch.cat([inputs[name] for inputs in dicts]) for name in dicts[0]}
        return Rows(
            x,
            torch.cat([part.y for part in parts]),
            torch.cat([part.task for part in parts]),
            torch.cat([part.key for part in parts]),
        )


def _named(x: Inputs) -> dict[str, Tensor]:
    if isinstance(x, Tensor):
        return {"x": x}
    return {f"x/{name}": column for name, column in x.items()}
