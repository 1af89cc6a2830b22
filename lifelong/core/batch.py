"""Rows of a stream on their way through a learner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch

Inputs: TypeAlias = Tensor | dict[str, Tensor]
"""What a model takes: one tensor, or several by name; rows first in each."""


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Rows to learn from: the first `new` come from the stream, the others are replayed.

    Attributes:
        x: inputs, one tensor or a dict of them, each of shape (rows, ...).
        y: targets, (rows, ...): class ids (int64) in classification.
        task: (rows,) int64, the task each row belongs to; -1 where it is not known.
        new: how many rows, from the first on, come from the stream.
        key: (rows,) int64, the row's id, by which it can be erased later; -1 for none.
        weight: (rows,) float, each row's relative weight in the loss, which is
            sum(weight * row loss) / sum(weight); None for equal weights.

    Example:
        >>> batch = Batch.of(torch.zeros(3, 4), torch.tensor([0, 1, 0]), task=2)
        >>> len(batch), batch.new, batch.task.tolist(), batch.key.tolist()
        (3, 3, [2, 2, 2], [-1, -1, -1])
    """

    x: Inputs
    y: Tensor
    task: Tensor
    new: int
    key: Tensor
    weight: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor | Mapping[str, Tensor],
        y: Tensor,
        task: int | Tensor = -1,
        key: Tensor | None = None,
    ) -> Batch:
        """Make a batch of new rows, with one task id for all or one for each.

        Left out, the task is not known (-1): a learner that learns from the rows takes them for
        rows of the task that is open.

        Raises:
            InvalidBatch: the columns differ in length, there are no rows, or an id is no integer.
        """
        if not isinstance(x, Tensor):
            x = dict(checked_inputs(x))
        if not isinstance(y, Tensor):
            raise InvalidBatch(f"y is of {type(y)}; {_as_tensor('y', y)}")
        rows = y.shape[0] if y.ndim else 0
        if isinstance(task, int):
            task = torch.full((rows,), task, device=y.device)
        if key is None:
            key = torch.full((rows,), -1, device=y.device)
        for name, ids in (("task", task), ("key", key)):
            if not isinstance(ids, Tensor):
                raise InvalidBatch(f"{name} is of {type(ids)}; {_as_tensor(name, ids)}")
        batch = cls(x, y, task, rows, key)
        batch.check()
        return batch

    def check(self) -> None:
        """Raise `InvalidBatch` unless all columns have the same, positive number of rows.

        Ids must be integers, and weights floating-point numbers.
        """
        if not self._sound():
            raise self._unsound()

    def _sound(self) -> bool:
        """Tell whether `check` passes, by the fewest looks: it is done at each step."""
        x, y, task, key, weight = self.x, self.y, self.task, self.key, self.weight
        if not y.ndim:
            return False
        rows = y.shape[0]
        if isinstance(x, Tensor):
            fits = x.ndim > 0 and x.shape[0] == rows
        else:
            fits = all(column.ndim > 0 and column.shape[0] == rows for column in x.values())
        return (
            fits
            and task.shape == key.shape == (rows,)
            and task.dtype is key.dtype is torch.int64
            and rows > 0
            and 0 <= self.new <= rows
            and (weight is None or (weight.shape == (rows,) and weight.is_floating_point()))
        )

    def _unsound(self) -> InvalidBatch:
        """Say what `check` does not pass for, as the error to raise."""
        columns = self.columns()
        rows = self.y.shape[0] if self.y.ndim else 0
        if any(column.shape[:1] != (rows,) for _, column in columns):
            lengths = {name: column.shape[0] if column.ndim else 0 for name, column in columns}
            told = ", ".join(f"{name} has {rows}" for name, rows in lengths.items())
            return InvalidBatch(
                f"the columns of a batch differ in rows: {told}; give each the same"
            )
        if rows == 0:
            return InvalidBatch("a batch of 0 rows; skip empty batches")
        if not 0 <= self.new <= rows:
            return InvalidBatch(
                f"new is {self.new}, of {rows} rows; it must lie between 0 and them"
            )
        for name, column in (("task", self.task), ("key", self.key)):
            if column.dtype != torch.int64 or column.ndim != 1:
                return InvalidBatch(
                    f"{name} is {column.dtype} of shape {tuple(column.shape)}; "
                    "it must be int64 of shape (rows,)"
                )
        assert self.weight is not None
        return InvalidBatch(
            f"weight is {self.weight.dtype} of shape {tuple(self.weight.shape)}; "
            "it must be floating-point of shape (rows,)"
        )

    def __repr__(self) -> str:
        """Show how many rows there are, and each column's shape and type.

        Example:
            >>> Batch.of(torch.zeros(3, 4), torch.tensor([0, 1, 0]))
            Batch(3 rows, 3 new, x (3, 4) float32, y (3,) int64)
        """
        shown = [
            f"{name} {tuple(column.shape)} {str(column.dtype).removeprefix('torch.')}"
            for name, column in self.columns()
            if name not in ("task", "key")
        ]
        return f"Batch({len(self)} rows, {self.new} new, {', '.join(shown)})"

    def __len__(self) -> int:
        """Count the rows."""
        return self.y.shape[0]

    def columns(self) -> list[tuple[str, Tensor]]:
        """Name every column: `x` (or `x/name` for each input of a dict), `y`, `task`, `key`."""
        inputs = [("x", self.x)] if isinstance(self.x, Tensor) else named_inputs(self.x)
        columns = [*inputs, ("y", self.y), ("task", self.task), ("key", self.key)]
        return columns if self.weight is None else [*columns, ("weight", self.weight)]

    def rows(self, index: slice | Tensor) -> Batch:
        """Take some of the rows; a slice takes views. All of them count as new.

        Example:
            >>> batch = Batch.of(torch.arange(3.0), torch.tensor([0, 1, 2]))
            >>> batch.rows(slice(1, None)).y.tolist()
            [1, 2]
        """
        take = {name: column[index] for name, column in self.columns()}
        return batch_of_columns(take)

    def extended(self, more: Batch) -> Batch:
        """Append rows to the end, as replayed ones.

        Missing weights count as 1 when only one of the two batches has weights.
        """
        x: Inputs
        if isinstance(self.x, Tensor) and isinstance(more.x, Tensor):
            x = torch.cat((self.x, more.x))
        elif (
            isinstance(self.x, dict) and isinstance(more.x, dict) and self.x.keys() == more.x.keys()
        ):
            x = {name: torch.cat((column, more.x[name])) for name, column in self.x.items()}
        else:
            raise InvalidBatch(f"cannot append inputs {_kind(more.x)} to inputs {_kind(self.x)}")
        weight = None
        if self.weight is not None or more.weight is not None:
            weight = torch.cat((_weights(self), _weights(more)))
        return Batch(
            x,
            torch.cat((self.y, more.y)),
            torch.cat((self.task, more.task)),
            self.new,
            torch.cat((self.key, more.key)),
            weight,
        )

    def lies_on(self, device: torch.device) -> bool:
        """Tell whether every column is on a device.

        Example:
            >>> Batch.of(torch.zeros(3, 4), torch.zeros(3)).lies_on(torch.device("cpu"))
            True
        """
        x, weight = self.x, self.weight
        return (
            (x.device == device if isinstance(x, Tensor) else _lie_on(x, device))
            and self.y.device == device
            and self.task.device == device
            and self.key.device == device
            and (weight is None or weight.device == device)
        )

    def to(self, device: torch.device) -> Batch:
        """Move every column to a device; nothing is copied when all are there already."""
        if self.lies_on(device):
            return self
        # Back to the host a copy must be waited for: it may be read at once.
        ahead = device.type != "cpu"
        moved = {name: column.to(device, non_blocking=ahead) for name, column in self.columns()}
        return batch_of_columns(moved, self.new)


def _lie_on(x: Mapping[str, Tensor], device: torch.device) -> bool:
    return all(column.device == device for column in x.values())


def named_inputs(x: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Name the inputs of a dict as columns: `x/name`."""
    return [(f"x/{name}", column) for name, column in x.items()]


def batch_of_columns(columns: Mapping[str, Tensor], new: int | None = None) -> Batch:
    """Put a batch together from what `Batch.columns` names; other columns are left out.

    Args:
        columns: (rows, ...) each.
        new: how many of the rows, from the first on, are new; None for all.

    Example:
        >>> batch = Batch.of({"a": torch.zeros(2), "b": torch.ones(2)}, torch.tensor([0, 1]))
        >>> sorted(batch_of_columns(dict(batch.columns())).x)
        ['a', 'b']
    """
    x: Inputs
    if "x" in columns:
        x = columns["x"]
    else:
        x = {name[2:]: column for name, column in columns.items() if name.startswith("x/")}
    y = columns["y"]
    new = y.shape[0] if new is None else new
    return Batch(x, y, columns["task"], new, columns["key"], columns.get("weight"))


def checked_inputs(x: object) -> Mapping[str, Tensor]:
    """Give inputs by name back if they are some, each a tensor, else raise `InvalidBatch`.

    Example:
        >>> checked_inputs({})
        Traceback (most recent call last):
        ...
        lifelong.core.errors.InvalidBatch: x is a dict of []; it must be a tensor, or a dict of \
one or more: torch.as_tensor(x)
    """
    if not isinstance(x, Mapping) or not x or not all(isinstance(v, Tensor) for v in x.values()):
        told = f"a dict of {sorted(x)}" if isinstance(x, Mapping) else f"of {type(x)}"
        raise InvalidBatch(
            f"x is {told}; it must be a tensor, or a dict of one or more: torch.as_tensor(x)"
        )
    return x


def _as_tensor(name: str, values: object) -> str:
    """Say how values that are no tensor become one."""
    # A row of names, in a list or an array, is none of numbers.
    if isinstance(values, Iterable) and any(isinstance(value, str) for value in values):
        return f"number them: torch.tensor([numbers[name] for name in {name}]), numbers a dict"
    return f"it must be a tensor: torch.as_tensor({name})"


def _weights(batch: Batch) -> Tensor:
    if batch.weight is not None:
        return batch.weight
    return torch.ones(len(batch), device=batch.y.device)


def _kind(x: Inputs) -> str:
    return "of one tensor" if isinstance(x, Tensor) else f"named {sorted(x)}"
