"""A teacher's answers, asked for once and kept by the ids of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.strategies.ledger import Ledger

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
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
        mark = state.get("mark")
        # Marks of older states were sums of another kind: such rows are asked about again.
        self._ledger.load_state_dict({} if mark is not None and mark.is_floating_point() else state)
        self._asked = {}
        self._find()

    def _find(self) -> None:
        keys = self._ledger.state_dict().get("key")
        self._places = {} if keys is None else {key: n for n, key in enumerate(keys.tolist())}


def _marks(batch: Batch) -> Tensor:
    """Sum up the bits of each row, each word by a factor of its place, modulo 2**64; (rows,)."""
    columns = batch.x.values() if isinstance(batch.x, dict) else (batch.x,)
    total = torch.zeros(len(batch), dtype=torch.int64, device=batch.y.device)
    for number, column in enumerate(columns):
        words = _words(column.detach())
        total += (words * _factors(words.shape[1], number).to(words.device)).sum(1)
    return total


def _words(column: Tensor) -> Tensor:
    """See the bits of each row as whole numbers, (rows, words): eight bytes each where they fit."""
    flat = column.reshape(len(column), -1).contiguous()
    size = flat.itemsize
    if size > 8:  # complex numbers
        return flat.view(torch.int64)
    if flat.shape[1] * size % 8 == 0:
        whole = flat.storage_offset() * size % 8 == 0
        return (flat if whole else flat.clone()).view(torch.int64)
    return flat.view(_WORDS[size]).long()


@cache
def _factors(count: int, number: int) -> Tensor:
    """Odd numbers drawn at random, so that no change of one word goes unseen."""
    chance = torch.Generator().manual_seed(1000 * count + number)
    return torch.randint(-(2**62), 2**62, (count,), generator=chance) * 2 + 1
