"""A bounded memory of past rows: offered in batches, drawn at random, erased by id."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.memory.policies import policy_of
from lifelong.memory.policy import Policy
from lifelong.memory.rows import Rows, check_place, same_length
from lifelong.memory.sampling import distinct
from lifelong.memory.slots import Slots
from lifelong.memory.state import expect


class Memory:
    """Keep up to `capacity` of the rows offered, as a policy chooses, and draw from them.

    The columns, such as those of `Batch.columns`, are allocated when the first rows come, with
    their element types and shapes. The rows held are in slots 0 to `len(memory)` - 1.

    Args:
        capacity: how many rows may be held.
        policy: "reservoir", "ring", "balanced", or a policy made for the same capacity.
        device: where the columns live. Indices are worked out on the CPU, so generators are the
            CPU's whatever the device.
        path: a folder for the columns to live in files, of which only few are in memory at a time.

    Raises:
        ValueError: the capacity is not positive, a path is given with a device other than the CPU,
            or the policy is for another capacity or used already.
        UnknownName: there is no such policy.

    Example:
        >>> memory, chance = Memory(3), torch.Generator().manual_seed(0)
        >>> memory.add({"x": torch.rand(9, 2), "key": torch.arange(9)}, None, chance)
        >>> len(memory), memory.seen, memory.draw(2, chance)["x"].shape
        (3, 9, torch.Size([2, 2]))
    """

    def __init__(
        self,
        capacity: int,
        policy: str | Policy = "reservoir",
        *,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
    ) -> None:
        check_place(capacity, device, path)
        self.capacity = capacity
        self.policy = policy_of(policy, capacity)
        self.device = torch.device(device)
        self.path = None if path is None else Path(path)
        self.seen = 0
        """Rows offered so far."""
        self._rows: Rows | None = None
        self._scratch = np.empty(capacity, dtype=np.int32)

    def __len__(self) -> int:
        """Count the rows held."""
        return self.policy.held

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take, in memory or in files; 0 before the first rows."""
        return 0 if self._rows is None else self._rows.nbytes

    def check(self, columns: Mapping[str, Tensor]) -> None:
        """Make sure that rows with these columns, and maybe more, could be added.

        Raises:
            InvalidBatch: a column is unknown, or of another type or shape than the rows held.

        Example:
            >>> memory = Memory(3)
            >>> memory.check({"y": torch.zeros(2)})  # nothing is held, so anything may come
        """
        if self._rows is not None:
            self._rows.check_some(columns)

    def add(
        self, columns: Mapping[str, Tensor], group: Tensor | None, generator: torch.Generator
    ) -> None:
        """Offer rows; the policy decides which of them stay. They are copied, never kept.

        Args:
            columns: (rows, ...) each, on any device; always the same names, types and row shapes.
            group: (rows,) integers, the class or task of each row, for policies that share the
                room among groups; None for one group.
            generator: of the CPU; all chance comes from it.

        Raises:
            InvalidBatch: the columns do not fit or differ in length, or there is not one group a
                row. Nothing is changed then.
        """
        rows = same_length(columns) if self._rows is None else self._rows.check(columns)
        if rows == 0:
            return
        kept = self._rows
        if kept is None:
            kept = Rows(self.capacity, columns, device=self.device, path=self.path)
        slots, source = self.policy.place(group, rows, generator)
        self._rows = kept
        self.seen += rows
        if len(slots):
            kept.put(slots, columns, source)

    def draw(self, rows: int, generator: torch.Generator, times: int = 1) -> dict[str, Tensor]:
        """Copy random rows: uniformly, none twice, in random order; all if it holds fewer.

        Args:
            rows: how many.
            generator: of the CPU; all chance comes from it.
            times: how many such draws, independent of each other, to put one after the other.

        Returns:
            (rows, ...) of each column on the memory's device; {} before the first rows were added.
        """
        if self._rows is None:
            return {}
        slots = [self._distinct(rows, generator) for _ in range(times)]
        return self._rows.take(slots[0] if times == 1 else np.concatenate(slots))

    def draw_slots(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draw as `draw` does, but only the slots, (rows,) int64 on the CPU, for `read`.

        Example:
            >>> memory, chance = Memory(3), torch.Generator().manual_seed(0)
            >>> memory.add({"y": torch.tensor([5, 6, 7])}, None, chance)
            >>> slots = memory.draw_slots(2, chance)
            >>> bool((memory.read(slots)["y"] == slots + 5).all())
            True
        """
        return torch.from_numpy(self._distinct(rows, generator))

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copy the rows of some slots, (rows, ...) each.

        Raises:
            ValueError: a slot holds no row.
        """
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(self):
            raise ValueError(
                f"slots from {int(slots.min())} to {int(slots.max())} of a memory that holds "
                f"{len(self)} rows; they must lie between 0 and {len(self) - 1}"
            )
        return {} if self._rows is None else self._rows.read(slots)

    def write(self, slots: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Overwrite some columns of rows held: what a strategy knows of them anew, such as logits.

        Args:
            slots: (rows,) int64, none twice, from `draw_slots`.
            columns: (rows, ...) each; those not named stay.

        Raises:
            InvalidBatch: the columns do not fit. Nothing is changed then.
            ValueError: a slot holds no row.

        Example:
            >>> memory, chance = Memory(3), torch.Generator().manual_seed(0)
            >>> memory.add({"x": torch.rand(2, 1), "logits": torch.zeros(2, 1)}, None, chance)
            >>> memory.write(torch.tensor([1]), {"logits": torch.ones(1, 1)})
            >>> memory.all()["logits"].tolist()
            [[0.0], [1.0]]
        """
        rest = self.read(slots)
        if unknown := sorted(columns.keys() - rest.keys()):
            raise InvalidBatch(f"columns {unknown}; this memory has {sorted(rest)}")
        if self._rows is not None:
            self._rows.write(slots, {**rest, **columns})

    def all(self) -> dict[str, Tensor]:
        """Copy every row held, in the order of the slots; {} before the first rows were added.

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"y": torch.tensor([5, 6])}, None, torch.Generator())
            >>> memory.all()["y"].tolist()
            [5, 6]
        """
        return {} if self._rows is None else self._rows.first(len(self))

    def widen(self, name: str, width: int, fill: float) -> None:
        """Make a column's rows wider, as `Rows.widen`; nothing before the first rows were added."""
        if self._rows is not None:
            self._rows.widen(name, width, fill)

    def forget(self, keys: Tensor) -> int:
        """Erase the rows whose id in the column "key" is among these; -1 is no id.

        The last rows held move into the gaps, and what is left at the end is overwritten with
        zeros, in files at once. How the policy goes on is said of each.

        Returns:
            How many rows were held and are now erased.

        Raises:
            ValueError: the memory holds rows that have no column "key".

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"key": torch.tensor([5, 6])}, None, torch.Generator())
            >>> memory.forget(torch.tensor([4, 5])), memory.all()["key"].tolist()
            (1, [6])
        """
        if self._rows is None or len(self) == 0:
            return 0
        if "key" not in self._rows.columns:
            raise ValueError(
                f'rows with columns {sorted(self._rows.columns)} have no ids; add a column "key"'
            )
        held = len(self)
        own = self._rows.columns["key"][:held].cpu()
        gone = torch.isin(own, keys.detach().cpu()) & (own != -1)
        dropped = gone.nonzero().flatten().numpy()
        if not len(dropped):
            return 0
        gaps, moved = self.policy.forget(dropped)
        self._rows.shift(moved, gaps)
        self._rows.erase(len(self), held)
        return len(dropped)

    def state_dict(self) -> dict[str, Any]:
        """Copy all that decides what happens next: counts, the policy's state, the rows held.

        The tensors are copies on the memory's device, as large as the rows held, so later changes
        to the memory do not reach them. With columns in files, they are read into memory.

        Example:
            >>> sorted(Memory(3).state_dict())
            ['capacity', 'columns', 'policy', 'policy_state', 'seen']
        """
        return {
            "capacity": self.capacity,
            "seen": self.seen,
            "policy": self.policy.name,
            "policy_state": self.policy.state_dict(),
            "columns": self.all(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that a state was saved from; going on is then the same, bit for bit.

        Columns may come with another last dimension than they have here, as before or after a
        call of `widen`. The tensors are copied.

        Raises:
            StateMismatch: the state is of another capacity, policy or set of columns, or does not
                agree with itself. The memory is then as it was.
        """
        rows = self._check(state)
        policy, before = self.policy, self.policy.state_dict()
        policy.load_state_dict(state["policy_state"])
        try:
            if rows != policy.held or state["seen"] < rows:
                raise StateMismatch(
                    f"a state with {rows} rows, of {policy.held} held and {state['seen']} seen; "
                    "the state is damaged"
                )
            filled = self._filled(state["columns"], rows)
        except BaseException:
            policy.load_state_dict(before)
            raise
        self._rows, self.seen = filled, state["seen"]

    def _check(self, state: Mapping[str, Any]) -> int:
        """Count a state's rows after a look at everything but the policy's part."""
        own: dict[str, Any] = {"policy": self.policy.name, "policy_state": {}, "columns": {}}
        own.update(capacity=self.capacity, seen=self.seen)
        expect(state, own, "memory", fixed=("capacity", "policy"))
        columns = state["columns"]
        if not all(isinstance(column, Tensor) for column in columns.values()):
            raise StateMismatch("columns must be a dict of tensors in a state of a memory")
        if not columns:
            return 0
        if self._rows is not None and _kinds(columns) != _kinds(self._rows.columns):
            raise StateMismatch(
                f"a state with columns {_kinds(columns)} for a memory with "
                f"{_kinds(self._rows.columns)}; load it into a new memory, or one that was given "
                "the same columns"
            )
        try:
            return same_length(columns)
        except InvalidBatch as error:
            raise StateMismatch(f"a memory's state is damaged: {error}") from error

    def _filled(self, columns: Mapping[str, Tensor], held: int) -> Rows | None:
        """Build columns with this content; files are built apart and moved in place at the end."""
        if not columns:
            return None
        folder = None if self.path is None else self.path / "loading"
        try:
            rows = Rows(self.capacity, columns, device=self.device, path=folder)
            rows.put(np.arange(held), columns)
            if self.path is not None:
                rows.move(self.path)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return rows

    def _distinct(self, rows: int, generator: torch.Generator) -> Slots:
        if rows < 0:
            raise ValueError(f"cannot draw {rows} rows; ask for 0 or more")
        return distinct(min(rows, len(self)), len(self), generator, self._scratch)


def _kinds(columns: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe columns by type and by the shape of their rows but for the last dimension."""
    return {
        name: f"{column.dtype} {tuple(column.shape[1:-1])} of {column.ndim} dimensions"
        for name, column in sorted(columns.items())
    }
