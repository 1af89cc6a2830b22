"""How much of the event log is kept, and the small steps in which the rest is removed.

The trainer says from which checkpoint on it will never go back (`Floor`); the api, which alone
writes the log, removes what comes before it (`Retention`). The trainer keeps that checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from lifelong.serve.audit import Audit
from lifelong.serve.history import RECENT, History
from lifelong.serve.keep import Keep
from lifelong.serve.log import SQLiteLog
from lifelong.serve.quarantine import Quarantine
from lifelong.serve.versions import write_json

FLOOR = "floor.json"
SLICE = 200
"""Events that are looked at in one transaction."""
PARTS = 4
"""Of what is kept, of each of which a checkpoint stays: so much more than is asked for may stay."""
PAGES = 64
"""Pages that are given back in one transaction."""
RESTS = 4.0
"""How many times as long as it works it rests, while little waits to be removed."""
BEHIND = 5_000
"""Events that wait to be removed, by each of which rests are shorter by as much again."""
IDLE = 2.0
"""Seconds between looks at whether there is something to do."""


class Floor:
    """The trainer's side: which checkpoint it will never go back behind.

    It is the newest one that is old enough to be wanted no more, that leaves three from it on, so
    that one or two may be damaged, and that is not newer than the versions a rollback may go back
    to; those hold it back for as much again as is kept, at most. While an erasure is owed it stays.

    Args:
        folder: the trainer's.
        log: that it reads.
        history: its checkpoints.
        quarantine: forgets the rows that the log no longer has.
        keep: how much of the log is to stay.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        log: SQLiteLog,
        history: History,
        quarantine: Quarantine,
        keep: Keep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = folder / FLOOR
        self._log, self._history, self._quarantine = log, history, quarantine
        self._keep, self._clock = keep, clock
        self._told: tuple[int, int] | None = None
        self._history.floor, _ = read_floor(folder)
        self._history.parts = 0 if keep.unit == "all" else PARTS
        self.follow()

    def follow(self) -> None:
        """Let go of what the log no longer reaches back to; call it before events are taken in."""
        trimmed = self._log.trimmed
        if trimmed > self._history.begin:
            self._history.begin_at(trimmed)
            self._quarantine.drop(trimmed)

    def tell(self, targets: list[int]) -> None:
        """Say where the log may begin, if that has changed.

        Args:
            targets: the last offsets of the versions that a rollback may go back to.
        """
        if self._keep.unit == "all" or self._history.owed:
            return
        offsets = self._history.offsets
        if not offsets:
            return
        now = (self._choose(offsets, targets), offsets[-1])
        if now != self._told:
            self._history.floor = now[0]  # kept from here on, before anybody relies on it
            write_json(self._path, {"floor": now[0], "passed": now[1]})
            self._told = now

    def _choose(self, offsets: list[int], targets: list[int]) -> int:
        begin, last = self._history.begin, self._log.last
        wanted = self._keep.upto(self._log, self._clock())
        held = min([wanted, *targets])
        held = max(held, wanted - (last - wanted))
        good = [offset for offset in offsets[: 1 - RECENT] if begin <= offset <= held]
        before = self._history.floor if self._history.floor in offsets else begin
        return max([before, *good])


def read_floor(folder: Path) -> tuple[int, int]:
    """Return where a trainer's folder says the log may begin, and its newest checkpoint's offset.

    A file that is missing or damaged says nothing: (0, 0).

    Example:
        >>> read_floor(Path("a folder without a trainer"))
        (0, 0)
    """
    try:
        told = json.loads((folder / FLOOR).read_bytes())
        return int(told["floor"]), int(told["passed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


class Retention:
    """The api's side: removes what is wanted no more, in steps that requests do not notice.

    Each trimming is in the audit before it begins. A step that is killed is undone or done, and
    the next process goes on.

    Args:
        log: that is written.
        trainer: the trainer's folder.
        audit: is told.
        keep: as it was configured; "all" for no trimming.
        remember: how many trimmed events' ids stay known, so that sending one again adds nothing.
        compact: seconds after which the file is rewritten, if something was trimmed; 0 for never.
        decisions: entries of the audit that stay, at least; 0 for all.
        held: whether something is being decided that needs the log as it is.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        log: SQLiteLog,
        trainer: Path,
        audit: Audit,
        keep: str = "all",
        *,
        remember: int = 1_000_000,
        compact: float = 86_400.0,
        decisions: int = 0,
        held: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log, self._trainer, self._audit = log, trainer, audit
        self.keep = Keep.of(keep)
        self._text, self._remember, self._compact = keep, remember, compact
        self._decisions, self._held, self._clock = decisions, held, clock
        self._after: int | None = 0  # what a process before this one left is removed first

    def step(self) -> float:
        """Do one small piece of work; return the seconds to wait before the next."""
        start = time.perf_counter()
        if self._work():
            # A fifth of the time, at first; the more waits the more, or events that come faster
            # than that removes them would fill the disk.
            return RESTS / (1 + self.waiting / BEHIND) * (time.perf_counter() - start)
        return IDLE

    @property
    def waiting(self) -> int:
        """How many events, at most, are to be removed and still there."""
        return 0 if self._after is None else max(0, self._log.trimmed - self._after)

    def _work(self) -> bool:
        if self._after is None and self._begin():
            self._after = 0
        if self._after is not None:
            self._after, _ = self._log.sweep(self._after, SLICE)
            return True
        if self._log.forget_ids(self._remember, SLICE):
            return True
        if self._due():
            self._log.rewrite()
            return True
        if self._decisions and self._audit.entries_kept > self._decisions + self._decisions // 10:
            self._audit.cut(self._decisions)
            return True
        return self._log.free > PAGES and self._log.give_back(PAGES) > PAGES

    def _begin(self) -> bool:
        """Let the log begin later, if enough can go for it to be worth a decision."""
        floor, passed = read_floor(self._trainer)
        trimmed, last = self._log.trimmed, self._log.last
        if self.keep.unit == "all" or floor - trimmed < max(1, (last - trimmed) // 20):
            return False
        if self._held() or not self._log.mark(trimmed, passed):
            return False
        details = {"from": trimmed, "to": floor, "keep": self._text}
        self._audit.append("trim", "retention", details)
        return self._log.mark(floor, passed)

    def _due(self) -> bool:
        when = self._log.rewritten
        return bool(self._compact) and when is not None and self._clock() - when >= self._compact
