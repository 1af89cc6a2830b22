"""A bounded memory of past rows: offered in batches, drawn at random, erased by id."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lifelong.core.arguments import named_device
from lifelong.core.errors import BudgetTooSmall, InvalidBatch, StateMismatch
from lifelong.core.received import keys_of
from lifelong.memory.budget import (
    bytes_of,
    look_for_room,
    room_for,
    row_bytes,
    rows_within,
    whole,
)
from lifelong.memory.codecs import Codec
from lifelong.memory.encoded import Encoded, codecs_for, encoded, like_of, stored_as, told
from lifelong.memory.policies import policy_of
from lifelong.memory.policy import Policy
from lifelong.memory.rows import Rows, check_place, same_length
from lifelong.memory.sampling import distinct
from lifelong.memory.slots import Slots
from lifelong.memory.state import check_columns, expect
from lifelong.memory.store import codec_of


class Memory:
    """Keep up to `capacity` of the rows offered, as a policy chooses, and draw from them.

    The columns, such as those of `Batch.columns`, are allocated when the first rows come, with
    their element types and shapes. The rows held are in slots 0 to `len(memory)` - 1.

    Args:
        capacity: how many rows may be held, or the bytes that they may take in all columns
            together, such as "10MB". With bytes, the rows are counted when the first ones come,
            and again when a column is widened: then some leave at random, if need be.
        policy: "reservoir", "ring", "balanced" or "loss-aware", or a policy made for the same
            capacity.
        device: where the columns live. Indices are worked out on the CPU, so generators are the
            CPU's whatever the device.
        path: a folder for the columns to live in files, of which only few are in memory at a time.
        store: how to store the inputs (the columns x and x/...) in fewer bytes: "fp16", "int8",
            "uint8", "jpeg", or a codec; None to store them as they come.

    Raises:
        ValueError: the capacity is not positive, there is no such device, a path is given with one
            other than the CPU, or the policy is for another capacity or used already.
        UnknownName: there is no such policy, or way to store.

    Example:
        >>> memory, chance = Memory(3), torch.Generator().manual_seed(0)
        >>> memory.add({"x": torch.rand(9, 2), "key": torch.arange(9)}, None, chance)
        >>> len(memory), memory.seen, memory.draw(2, chance)["x"].shape
        (3, 9, torch.Size([2, 2]))
    """

    state_is_copied: ClassVar[bool] = True
    """What `state_dict` gives shares nothing with it, and need not be copied again."""

    def __init__(
        self,
        capacity: int | str,
        policy: str | Policy = "reservoir",
        *,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
        store: str | Codec | None = None,
    ) -> None:
        self.budget = bytes_of(capacity) if isinstance(capacity, str) else None
        """Bytes that the rows may take, if that is what was given."""
        if self.budget and isinstance(policy, Policy):
            raise ValueError(f"a policy for {policy.capacity} rows and {capacity!r}; name it")
        self.capacity = 1 if self.budget else whole(capacity)  # until the first rows come
        check_place(self.capacity, device, path)
        with room_for(self.capacity):
            self.policy = policy_of(policy, self.capacity)
            self._scratch = np.empty(self.capacity, dtype=np.int32)
        self.device = named_device(device, "leave it out for the CPU")
        self.path = None if path is None else Path(path)
        self.codec = None if store is None else codec_of(store)
        self.seen = 0
        """Rows offered so far."""
        self._rows: Rows | None = None

    def __len__(self) -> int:
        """Count the rows held."""
        return self.policy.held

    def __repr__(self) -> str:
        """Show how much is held, how it is chosen, and each column as it is stored.

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"x": torch.rand(2, 4)}, None, torch.Generator())
            >>> memory
            Memory(2 of 3 rows by reservoir, 2 seen, 48 bytes, x (4,) float32)
        """
        room = f"{len(self)} of {self.capacity} rows"
        if self._rows is None and self.budget:
            room = f"room for {self.budget} bytes of rows"
        columns = {} if self._rows is None else self._rows.columns
        shown = [
            f"{name} {tuple(column.shape[1:])} {str(column.dtype).removeprefix('torch.')}"
            for name, column in columns.items()
        ]
        told = [f"{room} by {self.policy.name}", f"{self.seen} seen", f"{self.nbytes} bytes"]
        return f"Memory({', '.join([*told, *shown])})"

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take, in memory or in files; 0 before the first rows."""
        return 0 if self._rows is None else self._rows.nbytes

    def check(
        self,
        columns: Mapping[str, Tensor],
        groups: int = 1,
        wider: str | None = None,
        group: Tensor | None = None,
    ) -> None:
        """Make sure that rows with these columns, and maybe more, could be added.

        Args:
            columns: (rows, ...) each.
            groups: how many classes or tasks there are, for each of which a row must find room.
            wider: a column that `widen` will have made as wide as it is here before they come.
            group: of the rows to be added, as in `add`; they count too where they decide the room.

        Raises:
            InvalidBatch: a column is unknown, or of another type or shape than the rows held, or
                has values that cannot be stored in the way asked for.
            BudgetTooSmall: the bytes given do not hold a row a group, or there are more groups than
                rows for the ring or balanced policy to share among them, or the machine has no
                room for so many.

        Example:
            >>> memory = Memory(3)
            >>> memory.check({"y": torch.zeros(2)})  # nothing is held, so anything may come
        """
        own: Mapping[str, Tensor] = {}
        if self._rows is not None:
            self._rows.check_some({n: column for n, column in columns.items() if n != wider})
            self._rows.check_values(columns)
            own = self._rows.columns
        elif self.codec is not None:
            for name, codec in codecs_for(columns, self.codec).items():
                codec.check(columns[name])
        stored, rows = {**own} or self._encoded(columns), self.capacity
        if self.budget is not None and (not own or wider or groups > self.capacity):
            if own and wider:
                stored[wider] = columns[wider]
            if not own and group is not None and group.numel() > self.budget // row_bytes(stored):
                groups = max(groups, _count(group))  # else, a GPU need not be waited for
            rows = rows_within(self.budget, stored, groups)
        if self.budget is None or own:
            self._check_shared(groups, group)
        if not own and self.path is None and self.device.type == "cpu":
            look_for_room(rows, row_bytes(stored))

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
            InvalidBatch: the columns do not fit or differ in length, there is not one group a
                row, or values cannot be stored in the way asked for. Nothing is changed then.
        """
        rows = same_length(columns) if self._rows is None else self._rows.check(columns)
        if rows == 0:
            return
        with self._undone_on_error(generator) if self.codec else nullcontext():
            kept = self._rows
            if kept is None:
                kept = self._allocated(columns, _count(group))
            slots, source = self.policy.place(group, rows, generator)
            if len(slots):
                kept.put(slots, columns, source)
        self._rows = kept
        self.seen += rows

    def reserve(self, columns: Mapping[str, Tensor], groups: int = 1) -> None:
        """Make room for rows such as these, so that `capacity` is known, and add none.

        Raises:
            InvalidBatch: rows with other columns are held.
            BudgetTooSmall: the bytes given do not hold a row a group.

        Example:
            >>> memory = Memory("1KB")
            >>> memory.reserve({"x": torch.zeros(1, 25, dtype=torch.uint8)})
            >>> memory.capacity, len(memory)
            (40, 0)
        """
        if self._rows is None:
            self._rows = self._allocated(columns, groups)
        else:
            self._rows.check(columns)
            self.check(columns, groups)

    def refill(
        self,
        columns: Mapping[str, Tensor],
        group: Tensor | None,
        generator: torch.Generator,
        keep: Tensor | None = None,
    ) -> None:
        """Erase the rows held, and begin anew: with some of them as they are stored, and others.

        Args:
            columns: (rows, ...) each of the others, as in `add`.
            group: of the rows that stay, and then of the others; None for one group.
            generator: of the CPU.
            keep: (rows,) int64, the slots of rows that are offered first, in this order, and not
                coded anew; None for none.

        Raises:
            InvalidBatch: as `add`. Nothing is changed then.
            ValueError: a slot holds no row.

        Example:
            >>> memory, chance = Memory(3), torch.Generator()
            >>> memory.add({"y": torch.tensor([5, 6])}, None, chance)
            >>> memory.refill({"y": torch.tensor([7])}, None, chance)
            >>> memory.all()["y"].tolist()
            [7]
        """
        keep = torch.empty(0, dtype=torch.int64) if keep is None else keep
        self._check_slots(keep)
        if self._rows is None:
            self.add(columns, group, generator)
            return
        own, more = self._rows, self._rows.check(columns)
        stored = own.joined(keep, columns)
        policy = policy_of(self.policy.name, self.capacity)
        slots, source = policy.place(group, len(keep) + more, generator)
        own.erase(0, len(self))
        Rows.put(own, slots, stored, source)  # as they are stored
        self.policy = policy
        self.seen += more

    def draw(
        self,
        rows: int,
        generator: torch.Generator,
        times: int = 1,
        behind: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Copy random rows: uniformly, none twice, in random order; all if it holds fewer.

        Args:
            rows: how many.
            generator: of the CPU; all chance comes from it.
            times: how many such draws, independent of each other, to put one after the other.
            behind: rows on the memory's device, which `check` has passed, for the columns named
                to begin with: in fewer passes than by joining them afterwards.

        Returns:
            (rows, ...) of each column on the memory's device; {} before the first rows were added.
        """
        if self._rows is None:
            return {}
        slots = [self._distinct(rows, generator) for _ in range(times)]
        return self._rows.take(slots[0] if times == 1 else np.concatenate(slots), behind)

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
        self._check_slots(slots)
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
        self._check_slots(slots)
        own = {} if self._rows is None else self._rows.columns
        if unknown := sorted(columns.keys() - own.keys()):
            raise InvalidBatch(f"columns {unknown}; this memory has {sorted(own)}")
        if self._rows is not None and columns:
            self._rows.write(slots, columns, some=True)

    def column(self, name: str) -> Tensor:
        """Copy one column of every row held, in the order of the slots, as it is stored.

        Raises:
            ValueError: there is no such column.

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"y": torch.tensor([5, 6])}, None, torch.Generator())
            >>> memory.column("y").tolist()
            [5, 6]
        """
        own = {} if self._rows is None else self._rows.columns
        if name not in own:
            raise ValueError(f"no column {name!r}; this memory has {sorted(own)}")
        return own[name][: len(self)].clone()

    def all(self) -> dict[str, Tensor]:
        """Copy every row held, in the order of the slots; {} before the first rows were added.

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"y": torch.tensor([5, 6])}, None, torch.Generator())
            >>> memory.all()["y"].tolist()
            [5, 6]
        """
        return {} if self._rows is None else self._rows.first(len(self))

    def widen(self, name: str, width: int, fill: float, generator: torch.Generator) -> None:
        """Make a column's rows wider, as `Rows.widen`; nothing before the first rows were added.

        Args:
            name: which column.
            width: the new size of its rows' last dimension.
            fill: the value of every new element.
            generator: of the CPU; by its chance rows leave where bytes no longer hold as many.

        Raises:
            BudgetTooSmall: the bytes given do not hold a row any more.
            ValueError: as `Rows.widen`. Nothing is changed then.

        Example:
            >>> memory, chance = Memory("48B"), torch.Generator().manual_seed(0)
            >>> memory.add({"logits": torch.zeros(6, 2)}, None, chance)
            >>> memory.widen("logits", 4, 0.0, chance)
            >>> memory
            Memory(3 of 3 rows by reservoir, 6 seen, 48 bytes, logits (4,) float32)
        """
        if self._rows is None:
            return
        if self.budget is not None:
            self._shrink(rows_within(self.budget, self._rows.widened(name, width)), generator)
        self._rows.widen(name, width, fill)

    def forget(self, keys: Tensor) -> int:
        """Erase the rows whose id in the column "key" is among these; -1 is no id.

        The last rows held move into the gaps, and what is left at the end is overwritten with
        zeros, in files at once. How the policy goes on is said of each.

        Returns:
            How many rows were held and are now erased.

        Raises:
            ValueError: the ids are no integers, or rows are held that have no column "key".

        Example:
            >>> memory = Memory(3)
            >>> memory.add({"key": torch.tensor([5, 6])}, None, torch.Generator())
            >>> memory.forget(torch.tensor([4, 5])), memory.all()["key"].tolist()
            (1, [6])
        """
        keys = keys_of(keys)
        if self._rows is None or len(self) == 0:
            return 0
        if "key" not in self._rows.columns:
            raise ValueError(
                f'rows with columns {sorted(self._rows.columns)} have no ids; add a column "key"'
            )
        held = len(self)
        own = self._rows.columns["key"][:held].cpu()
        gone = torch.isin(own, keys.cpu()) & (own != -1)
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
        to the memory do not reach them. With columns in files, they are read into memory. Rows
        are as they are stored; with a codec, "store" tells how, and "given" as what they come.

        Example:
            >>> sorted(Memory(3).state_dict())
            ['capacity', 'columns', 'policy', 'policy_state', 'seen']
        """
        state = {
            "capacity": self.capacity,
            "seen": self.seen,
            "policy": self.policy.name,
            "policy_state": self.policy.state_dict(),
            "columns": {} if self._rows is None else self._rows.stored(len(self)),
        }
        given = self._rows.given if isinstance(self._rows, Encoded) else {}
        if self.codec is None:
            return state
        told_of = {name: told(like) for name, like in given.items()}
        return {**state, "store": stored_as(self.codec), "given": told_of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that a state was saved from; going on is then the same, bit for bit.

        Columns may come with another last dimension than they have here, as before or after a
        call of `widen`. The tensors are copied.

        Raises:
            StateMismatch: the state is of another capacity, policy, way to store or set of
                columns, or does not agree with itself. The memory is then as it was.
        """
        own = {**self.state_dict(), "columns": {}, "policy_state": {}}
        fixed = ("policy", "store") if self.budget else ("capacity", "policy", "store")
        expect(state, own, "memory", fixed)
        rows = check_columns(state["columns"], {} if self._rows is None else self._rows.columns)
        with self._undone_on_error():
            if self.budget is not None:
                self._resize_for(state)
            self.policy.load_state_dict(state["policy_state"])
            if rows != self.policy.held or state["seen"] < rows:
                raise StateMismatch(
                    f"a state with {rows} rows, of {self.policy.held} held and {state['seen']} "
                    "seen; the state is damaged"
                )
            given = {name: like_of(text) for name, text in state.get("given", {}).items()}
            filled = self._filled(state["columns"], given)
        self._rows, self.seen = filled, state["seen"]

    @contextmanager
    def _undone_on_error(self, generator: torch.Generator | None = None) -> Iterator[None]:
        """Give the policy, and a generator, back what they were if what is done with them fails."""
        before = self.capacity, self.policy, self.policy.state_dict(), self._scratch
        chance = None if generator is None else generator.get_state()
        try:
            yield
        except BaseException:
            self.capacity, self.policy, policy_state, self._scratch = before
            self.policy.load_state_dict(policy_state)
            if generator is not None and chance is not None:
                generator.set_state(chance)
            raise

    def _filled(self, columns: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Rows | None:
        """Build columns with this content; files are built apart and moved in place at the end."""
        if not columns:
            return None
        folder = None if self.path is None else self.path / "loading"
        try:
            rows = self._made(columns, given, folder)
            Rows.put(rows, np.arange(self.policy.held), columns)  # as they are stored
            if self.path is not None:
                rows.move(self.path)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return rows

    def _allocated(self, columns: Mapping[str, Tensor], groups: int) -> Rows:
        """Make room for rows such as these."""
        stored = self._encoded(columns)
        if self.budget is not None:
            self._resize(rows_within(self.budget, stored, groups))
        given = {name: columns[name][:0] for name in codecs_for(columns, self.codec)}
        return self._made(stored, given, self.path)

    def _encoded(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make an example of how rows are stored."""
        first = {name: column[:1] for name, column in columns.items()}
        return encoded(first, codecs_for(first, self.codec))

    def _made(
        self, stored: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path | None
    ) -> Rows:
        if self.codec is None:
            with room_for(self.capacity, row_bytes(stored)):
                return Rows(self.capacity, stored, device=self.device, path=path)
        codecs = dict.fromkeys(given, self.codec)
        with room_for(self.capacity, row_bytes(stored)):
            return Encoded(self.capacity, stored, codecs, given, device=self.device, path=path)

    def _resize(self, capacity: int) -> None:
        with room_for(capacity):
            policy = policy_of(self.policy.name, capacity)
            self._scratch = np.empty(capacity, dtype=np.int32)
        self.capacity, self.policy = capacity, policy

    def _resize_for(self, state: Mapping[str, Any]) -> None:
        """Count the rows that the bytes given hold of a state's; be made for as many."""
        assert self.budget is not None
        columns = state["columns"]
        rows = rows_within(self.budget, columns) if columns else 1
        if state["capacity"] != rows:
            raise StateMismatch(
                f"a state with capacity {state['capacity']} for a memory of {self.budget} bytes, "
                f"which holds {rows} such rows; give it as many bytes as it was saved with"
            )
        self._resize(rows)

    def _shrink(self, capacity: int, generator: torch.Generator) -> None:
        """Hold fewer rows from now on; who leaves is up to the policy."""
        if self._rows is None or capacity >= self.capacity:
            return
        held = len(self)
        gaps, moved = self.policy.shrink(capacity, generator)
        self._rows.shift(moved, gaps)
        self._rows.erase(len(self), held)  # or no `forget` would reach them
        self._rows = self._rows.resized(capacity)
        self.capacity = capacity
        self._scratch = np.empty(capacity, dtype=np.int32)

    def _check_shared(self, groups: int, group: Tensor | None) -> None:
        """Raise `BudgetTooSmall` if groups that share the room are more than rows."""
        known = self.policy.sharing
        if known is None:
            return
        come = 0 if group is None or group.is_floating_point() else group.numel()
        if group is not None and come and len(known) + come > self.capacity:
            groups = max(groups, len({*known, *torch.unique(group).tolist()}))
        if groups > self.capacity:
            raise BudgetTooSmall(
                f"a memory of {self.capacity} rows, of which {groups} classes or tasks shall have "
                f"equal shares; give it room for at least {groups} rows, or, where it can be "
                'chosen, the policy "reservoir", which makes no difference between them'
            )

    def _check_slots(self, slots: Tensor) -> None:
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(self):
            raise ValueError(
                f"slots from {int(slots.min())} to {int(slots.max())} of a memory that holds "
                f"{len(self)} rows; they must lie between 0 and {len(self) - 1}"
            )

    def _distinct(self, rows: int, generator: torch.Generator) -> Slots:
        if rows < 0:
            raise ValueError(f"cannot draw {rows} rows; ask for 0 or more")
        return distinct(min(rows, len(self)), len(self), generator, self._scratch)


def _count(group: Tensor | None) -> int:
    """Count the groups of rows; numbers that are no integers are none."""
    return 1 if group is None or group.is_floating_point() else torch.unique(group).numel()
