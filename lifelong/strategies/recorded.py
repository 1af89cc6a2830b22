"""A teacher's answers, asked for once and kept by the ids of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.core.errors import StateMismatch
from lifelong.strategies.ledger import Ledger

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""By the size of a number, the whole numbers that its bits are seen as."""


class Recorded:
    """Answers to rows that have ids; a row that comes again, and is what it was, is looked up.

    Of each row its id, its answer and a mark are kept, 16 bytes and the answer's. The mark is a
    hash of the row's bits: by it a row that comes under a known id but has changed, as augmented
    ones do, is found out. Rows that are asked about enter with `commit`, so that of a step that
    fails nothing stays. Once there are `capacity`, no others enter.

    Example:
        >>> record = Recorded(100)
        >>> batch = Batch.of(torch.ones(2, 3), torch.zeros(2), key=torch.tensor([4, 5]))
        >>> record.ask(batch, lambda asked: asked.x.sum(1, keepdim=True)).tolist()
        [[3.0], [3.0]]
        >>> record.commit()
        >>> record.ask(batch, lambda asked: 1 / 0).tolist()  # nobody is asked
        [[3.0], [3.0]]
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ledger = Ledger("key", "mark", "answer")
        self._places: dict[int, int] = {}
        self._asked: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._ledger)

    def ask(self, batch: Batch, teacher: Callable[[Batch], Tensor]) -> Tensor:
        """Look the answers up; where one is missing, ask the teacher about all of these rows."""
        self._asked = {}
        marks = _marks(batch)
        places = [self._places.get(key, -1) for key in batch.key.tolist()]
        if places and min(places) >= 0:
            held = self._ledger.at(torch.tensor(places))
            if torch.equal(held["mark"].to(marks.device), marks):
                return held["answer"].to(marks.device)
        found = teacher(batch)
        self._asked = {"key": batch.key, "mark": marks, "answer": found}
        return found

    def discard(self) -> None:
        """Leave out the last question, as when its step has failed."""
        self._asked = {}

    def commit(self) -> None:
        """Keep the answers of the last question, of rows that none is kept of."""
        asked, self._asked = self._asked, {}
        if not asked:
            return
        new: dict[int, int] = {}
        room = self.capacity - len(self._ledger)
        for row, key in enumerate(asked["key"].tolist()):
            if key != -1 and key not in self._places and len(new) < room:
                new.setdefault(key, row)
        if new:
            index = torch.tensor(list(new.values()), device=asked["key"].device)
            first = len(self._ledger)
            self._ledger.add({name: column[index] for name, column in asked.items()})
            self._places.update(zip(new, range(first, first + len(new)), strict=True))

    def drop(self, keys: Tensor) -> int:
        """Erase what is kept of these rows, and count them."""
        self._asked = {}
        rows = self._ledger.drop(keys)
        self._find()
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        """Return ids, marks and answers."""
        return self._ledger.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them over.

        Raises:
            StateMismatch: they are no such columns.
        """
        kept = Ledger(*self._ledger.names)
        kept.load_state_dict(state)
        mark = state.get("mark", torch.empty(0, dtype=torch.int64))
        if mark.dtype not in (torch.int64, torch.float64) or mark.ndim != 1:
            raise StateMismatch(
                f"marks are {mark.dtype} of shape {tuple(mark.shape)}; they must be int64, one a "
                "row: the state is damaged"
            )
        if mark.dtype == torch.float64:  # of an older version: such rows are asked about again
            kept = Ledger(*self._ledger.names)
        self._ledger, self._asked = kept, {}
        self._find()

    def _find(self) -> None:
        keys = self._ledger.state_dict().get("key")
        self._places = {} if keys is None else {key: n for n, key in enumerate(keys.tolist())}


def _marks(batch: Batch) -> Tensor:
    """Hash the bits of each row: the sum of its words, each times a number of its place; (rows,).

    All is modulo 2**64. As factors are odd, no change of one word goes unseen; of several, one in
    2**33 at the most.
    """
    columns = batch.x.values() if isinstance(batch.x, dict) else (batch.x,)
    total = torch.zeros(len(batch), dtype=torch.int64, device=batch.y.device)
    for number, column in enumerate(columns):
        words = _words(column.detach())
        total += words.mul_(_factors(words.shape[1], number).to(words.device)).sum(1)
    return total


def _words(column: Tensor) -> Tensor:
    """See the bits of each row as new whole numbers, (rows, words), as wide as they may be."""
    if column.is_complex():
        column = torch.view_as_real(column.resolve_conj())
    flat = column.resolve_neg().reshape(len(column), -1)
    width = flat.shape[1]
    if flat.stride() != (width, 1):
        flat = flat.clone(memory_format=torch.contiguous_format)
    if width * flat.itemsize % 8:
        return flat.view(_WHOLE[flat.itemsize]).long()
    whole = flat if flat.storage_offset() * flat.itemsize % 8 == 0 else flat.clone()
    wide = whole.view(torch.int64) if width else whole.new_zeros(len(whole), 0, dtype=torch.int64)
    # A factor moves bits up alone, so that the upper half has to be in the lower one, too.
    return (wide >> 32).bitwise_xor_(wide)


@cache
def _factors(count: int, number: int) -> Tensor:
    chance = torch.Generator().manual_seed(1000 * count + number)
    return torch.randint(-(2**62), 2**62, (count,), generator=chance) * 2 + 1
