"""Rows to learn from, made of events: at the later of the places of their features and label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifelong.core.batch import Batch
from lifelong.serve.events import Event, Log
from lifelong.serve.records import key_of


class Checks(Protocol):
    """What a row's features and label must be; `lifelong.serve.schema.Schema` is one."""

    def row(self, x: Any) -> NDArray[np.generic]:
        """Return the features of one row, or raise ValueError saying what is wrong."""

    def label(self, y: Any) -> int:
        """Return the label, or raise ValueError saying what is wrong."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features and label of one event, as they were received.

    Attributes:
        offset: where in the log the row became whole.
        id: of the event with the features.
        x, y: JSON values, not checked yet.
        task: given with the features, or None.
        source: who sent the label.
    """

    offset: int
    id: str
    x: Any
    y: Any
    task: int | None
    source: str | None

    @property
    def key(self) -> int:
        """The row's key in memories: 63 bits of the SHA-256 of its id."""
        return key_of(self.id)


def chance_of(id: str) -> float:
    """Draw a number in [0, 1) that depends on the id alone, and not as its key does.

    Example:
        >>> 0 <= chance_of("p-1") < 1
        True
    """
    return int.from_bytes(hashlib.sha256(b"anchor " + id.encode()).digest()[:7], "big") / 2**56


def labelled(log: Log, event: Event) -> Labelled | None:
    """Return the row that becomes whole with this event, if one does.

    Labels may come at any delay, also before their prediction. Of several labels of one
    prediction the first counts. The answer depends on the log up to this event alone, whatever
    has been appended since.
    """
    if event.kind == "example":
        return Labelled(
            event.offset, event.id, event.data["x"], event.data["y"], event.task, event.source
        )
    if event.kind == "label" and event.about is not None:
        prediction: Event | None = log.find(event.about)
        label: Event | None = event
        first = log.label_of(event.about)
        if first is None or first.id != event.id:
            return None
    elif event.kind == "prediction":
        prediction, label = event, log.label_of(event.id)
    else:
        return None
    if prediction is None or label is None or prediction.kind != "prediction":
        return None
    if max(prediction.offset, label.offset) != event.offset:
        return None
    x, y = prediction.data["x"], label.data["y"]
    return Labelled(event.offset, prediction.id, x, y, prediction.task, label.source)


@dataclass(slots=True)
class Table:
    """Checked rows as columns: features, labels, tasks, keys; in the order in which they came.

    Example:
        >>> table = Table.empty()
        >>> table.add(np.zeros(2, dtype=np.float32), 1, 0, 7)
        >>> len(table), table.batch().x.shape
        (1, torch.Size([1, 2]))
    """

    x: list[Tensor]
    y: list[int]
    task: list[int]
    key: list[int]

    @classmethod
    def empty(cls) -> Table:
        """Make a table without rows."""
        return cls([], [], [], [])

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> Table:
        """Make a table from what `state` returned."""
        if not state:
            return cls.empty()
        columns = [state[name].tolist() for name in ("y", "task", "key")]
        return cls(list(state["x"].unbind()), *columns)

    def add(self, x: NDArray[np.generic] | Tensor, y: int, task: int, key: int) -> None:
        """Append one row."""
        self.x.append(x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x)))
        self.y.append(y)
        self.task.append(task)
        self.key.append(key)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.y)

    def rows(self, index: Sequence[int]) -> Table:
        """Take some rows."""
        x, y, task, key = ([column[i] for i in index] for column in self._columns())
        return Table(x, y, task, key)

    def extend(self, other: Table) -> None:
        """Append all rows of another table."""
        for own, more in zip(self._columns(), other._columns(), strict=True):
            own.extend(more)

    def last(self, rows: int) -> Table:
        """Take the last rows."""
        return self.rows(range(max(len(self) - rows, 0), len(self)))

    def batch(self) -> Batch:
        """Make one batch of all rows."""
        task = torch.tensor(self.task, dtype=torch.int64)
        key = torch.tensor(self.key, dtype=torch.int64)
        return Batch.of(torch.stack(self.x), torch.tensor(self.y, dtype=torch.int64), task, key)

    def batches(self, rows: int) -> Iterator[Batch]:
        """Cut all rows into batches."""
        for start in range(0, len(self), rows):
            yield self.rows(range(start, min(start + rows, len(self)))).batch()

    def state(self) -> dict[str, Tensor]:
        """Return the rows as tensors; {} if there are none."""
        if not len(self):
            return {}
        batch = self.batch()
        x = batch.x
        assert isinstance(x, Tensor)
        return {"x": x, "y": batch.y, "task": batch.task, "key": batch.key}

    def _columns(self) -> tuple[list[Any], ...]:
        return self.x, self.y, self.task, self.key
