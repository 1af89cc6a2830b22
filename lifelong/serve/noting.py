"""The labelled rows of a log, noted as they come, until they have been answered."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifelong.serve.events import Event
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.past import Upto
from lifelong.serve.rows import Labelled, labelled

NOT_SERVED = 2
"""Stands for the answer to a row that nobody asked for: an example."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which part of a log is replayed, and how.

    Attributes:
        first: the first offset whose rows are measured; what lies before is learned from alone.
        last: where the replay ends.
        sync: steps after which what would have been served is brought up to date; 0 for never.
        erased: how many of the events up to `last` are gone.
        begin: the offset after which the log began; 0 unless it was trimmed.
    """

    first: int
    last: int
    sync: int
    erased: int
    begin: int = 0


@dataclass(frozen=True, slots=True)
class Came:
    """A labelled row at the place where its features came.

    Attributes:
        offset: of the prediction or example.
        x, y: checked.
        task: that came with it, or None.
        served: 1 if what was served answered it rightly, 0 if not, or `NOT_SERVED`.
    """

    offset: int
    x: NDArray[np.generic]
    y: int
    task: int | None
    served: int


class Noting(Upto):
    """A log that keeps the labelled rows it gave, until they have been answered.

    Rows that a rollback discarded, or whose features or label are not what they must be, are left
    out, for whoever answers.

    Args:
        log: to read.
        stretch: of it.
        checks: what features and labels must be.
    """

    def __init__(self, log: SQLiteLog, stretch: Stretch, checks: Checked) -> None:
        super().__init__(log, stretch.last)
        self.first, self.begin = stretch.first, stretch.begin
        self.checks = checks
        self.discarded: Callable[[int], bool] = lambda offset: False  # noqa: ARG005
        """Tells whether what became whole at an offset was discarded by a rollback."""
        self.given: deque[int] = deque()
        self.rows: deque[Came] = deque()
        self._served: list[tuple[int, int]] = []

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with offsets above `after`, in order."""
        found = super().read(max(after, self.begin), limit)
        for event in found:
            self.given.append(event.offset)
            if event.kind == "prediction":
                self.note(event.offset, event.data["version"])
            if event.offset >= self.first and (came := self._came(event)) is not None:
                self.rows.append(came)
        return found

    def take(self, upto: int) -> list[Came]:
        """Give away the rows that came up to an offset."""
        taken = []
        while self.rows and self.rows[0].offset <= upto:
            taken.append(self.rows.popleft())
        return taken

    def note(self, offset: int, version: int) -> None:
        """Note which version answered at an offset."""
        if not self._served or self._served[-1][1] != version:
            self._served.append((offset, version))

    def served_at(self, offset: int) -> int:
        """Return which version answered last up to an offset; 0 if none had."""
        place = bisect_right(self._served, offset, key=lambda pair: pair[0])
        return self._served[place - 1][1] if place else 0

    def under_way(self, after: int) -> int:
        """Return the offset of the event that follows another, which is being taken in."""
        while self.given and self.given[0] <= after:
            self.given.popleft()
        return self.given[0] if self.given else after

    def _came(self, event: Event) -> Came | None:
        """Join a row where its features are, wherever its label is."""
        row, served = self._joined(event)
        if row is None or row.offset > self.end or self.discarded(row.offset):
            return None
        try:
            x, y = self.checks.row(row.x), self.checks.label(row.y)
        except ValueError:
            return None
        if served is None:
            return Came(event.offset, x, y, row.task, NOT_SERVED)
        right = len(served) > 0 and int(np.argmax(np.array(served, np.float64).ravel())) == y
        return Came(event.offset, x, y, row.task, int(right))

    def _joined(self, event: Event) -> tuple[Labelled | None, Any]:
        if event.kind == "example":
            return labelled(self.log, event), None
        if event.kind != "prediction" or (label := self.log.label_of(event.id)) is None:
            return None, None
        later = label if label.offset > event.offset else event
        return labelled(self.log, later), event.data["output"]
