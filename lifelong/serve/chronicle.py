"""What learning came to over time, for people to see; nothing is learned from it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lifelong.serve.events import Event
from lifelong.serve.progress import Ended, Learned, Point, Progress
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Trainer

RECENT = 500
"""Rows of the window in which accuracy before learning is counted, at least."""
OLDEST, NEWEST = 8, 16
"""Tasks or periods that are shown: so many of the first, and so many of the last."""
POINTS = 120
VERSIONS = 32
TIMES = 32
SHARE = 0.02
"""Of the trainer's time that measuring the champion may take."""
_log = logging.getLogger("lifelong.serve")


class Chronicle:
    """Watch a trainer, and measure its champion and its learner on anchors now and then.

    Nothing here changes what is learned, and a measurement that fails is left out. All lists are
    bounded. Of the points in time every other one of the older half goes when there are too many.

    Args:
        trainer: is watched.
        before: what an earlier process wrote, to go on from.
        clock: seconds since 1970.
        pace: seconds that never go back.
    """

    def __init__(
        self,
        trainer: Trainer,
        before: Progress | None = None,
        clock: Callable[[], float] = time.time,
        pace: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer = trainer
        self.clock, self.pace = clock, pace
        known = before or Progress(time=0.0, pid=0, offset=0)
        self.points, self.matrix, self.best = known.points, known.matrix, known.best
        self.versions, self.seen = known.learned, known.seen
        self._whole: dict[int, float] = {}
        self._fresh: list[float] = []
        self._fresh_rows = self._fresh_first = 0
        self._offset = trainer.at.offset
        self._closed = [0, 0]
        self._window: deque[tuple[int, int]] = deque()
        self._went_back()
        self._next = 0.0
        self._measured: tuple[int, int] | None = None
        trainer.completed, trainer.learned, trainer.closing = self._complete, self._learn, self._end

    def look(self, champion: Snapshot | None) -> None:
        """Take note of where the trainer is; measure the champion where that is due."""
        at = self.trainer.at
        if at.offset < self._offset:
            self._went_back()
        self._offset = at.offset
        self._count()
        state = None if champion is None else (champion.version, at.rows)
        if champion is None or state == self._measured or self.pace() < self._next:
            return
        start = self.pace()
        accuracy = self._on_anchors(
            lambda x, task: torch.from_numpy(champion.predict(x.numpy(), task.numpy()))
        )
        if accuracy:
            self._add(champion.version, accuracy)
            self._measured = state
        took = self.pace() - start
        self._next = start + max(1.0, took / SHARE)

    def made(self, version: int) -> None:
        """Take note that the learner as it is now has become a version."""
        if not self._fresh_rows:
            return
        times = sorted(self._fresh)
        self.versions.append(
            Learned(version, self._fresh_first, self._fresh_rows, evenly(times, TIMES))
        )
        self.versions = self.versions[-VERSIONS:]
        self._fresh, self._fresh_rows = [], 0

    def status(self) -> dict[str, Any]:
        """Say what `Progress` has of it."""
        trainer = self.trainer
        kept = [one for one in self.versions if not trainer.history.discarded(one.first)]
        return {
            "recent": self.recent,
            "of_period": tuple(trainer.at.correct),
            "anchors": {g: trainer.anchors.count(g) for g in self._groups()},
            "best": self.best,
            "points": self.points,
            "matrix": self.matrix,
            "learned": kept,
            "seen": self.seen,
            "unreleased": (self._fresh_rows, min(self._fresh, default=None)),
        }

    @property
    def recent(self) -> tuple[int, int]:
        """Rows that the learner had right before it learned them, and all, of the latest."""
        (first_right, first_all), (right, all_) = self._window[0], self._window[-1]
        return right - first_right, all_ - first_all

    def _groups(self) -> list[int]:
        return ends(self.trainer.anchors.groups)

    def _complete(self, event: Event) -> None:
        """Remember when a row became whole, until it is learned; some never are."""
        if len(self._whole) >= 4096:
            self._whole = dict(list(self._whole.items())[2048:])
        self._whole[event.offset] = event.time

    def _learn(self, offsets: Sequence[int]) -> None:
        for offset in offsets:
            at = self._whole.pop(offset, None)
            if at is None or offset <= self.seen:  # learned again, after a crash or going back
                continue
            if not self._fresh_rows:
                self._fresh_first = offset
            self._fresh_first = min(self._fresh_first, offset)
            self._fresh_rows += 1
            self._fresh.append(at)
        self.seen = max([self.seen, *offsets])
        if len(self._fresh) > 4096:
            self._fresh = evenly(sorted(self._fresh), 2048)

    def _end(self) -> None:
        """Add a row to the matrix, when a period has been learned in full."""
        trainer, at = self.trainer, self.trainer.at
        self._count()
        self._closed = [a + b for a, b in zip(self._closed, at.correct, strict=True)]
        accuracy = self._on_anchors(trainer.learner.predict)
        group = at.period if at.task is None else at.task
        self.matrix = [row for row in self.matrix if row.period != at.period]
        self.matrix.append(Ended(at.period, group, at.offset, accuracy))
        self.matrix = ends(self.matrix)

    def _on_anchors(self, outputs: Callable[[Tensor, Tensor], Tensor]) -> dict[int, float]:
        """Compute the accuracy on the anchors of each task or period, as far as that goes."""
        found = {}
        try:
            for group in self._groups():
                x, y, task = self.trainer.anchors.rows(group)
                right = outputs(x, task).reshape(len(y), -1).argmax(1).cpu() == y
                found[group] = round(float(right.double().mean()), 4)
        except Exception as error:  # whatever a model raises: it must not end learning
            _log.warning("cannot measure on anchors: %s: %s", type(error).__name__, error)
        return found

    def _add(self, version: int, accuracy: dict[int, float]) -> None:
        right, all_ = self.recent
        recent = round(right / all_, 4) if all_ else None
        at = self.trainer.at
        open_ = at.period if at.task is None else at.task
        # While a period is open its anchors still grow: only afterwards is there a best to keep.
        self.best = {
            g: a if g == open_ else max(a, self.best.get(g, a)) for g, a in accuracy.items()
        }
        forgetting = {g: round(self.best[g] - a, 4) for g, a in accuracy.items()}
        self.points.append(Point(self.clock(), version, accuracy, forgetting, recent))
        if len(self.points) > POINTS:
            half = POINTS // 2
            self.points = [*self.points[:half:2], *self.points[half:]]

    def _count(self) -> None:
        now = tuple(a + b for a, b in zip(self._closed, self.trainer.at.correct, strict=True))
        if now != self._window[-1]:
            self._window.append((now[0], now[1]))
        while len(self._window) > 2 and now[1] - self._window[1][1] >= RECENT:
            self._window.popleft()

    def _went_back(self) -> None:
        """Forget what was measured of a learner that is no more; what was served stays."""
        offset = self.trainer.at.offset
        # The event that ended a period is the one after the row's offset.
        self.matrix = [row for row in self.matrix if row.offset < offset]
        self._closed = [0, 0]
        right, all_ = self.trainer.at.correct
        self._window = deque([(right, all_)])


def ends(items: list[Any]) -> list[Any]:
    """Return the first few and the last few of a list, or all where they are not more.

    Example:
        >>> len(ends(list(range(99)))), ends([1, 2])
        (24, [1, 2])
    """
    return items if len(items) <= OLDEST + NEWEST else [*items[:OLDEST], *items[-NEWEST:]]


def evenly(items: list[float], most: int) -> list[float]:
    """Return at most so many items, evenly spaced, the first and the last among them.

    Example:
        >>> evenly([1.0, 2.0, 3.0, 4.0, 5.0], 3)
        [1.0, 3.0, 5.0]
    """
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
