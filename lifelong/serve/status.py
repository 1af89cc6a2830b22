"""What the api knows and what the trainer has told, as one answer for the console."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lifelong.core.errors import AuditError, LifelongError, LogError, RegistryError
from lifelong.serve import audit as chain
from lifelong.serve.audit import Audit
from lifelong.serve.delays import delays
from lifelong.serve.log import SQLiteLog
from lifelong.serve.progress import Point, Progress, read_progress
from lifelong.serve.quarantine import LAST, refused, refused_counts
from lifelong.serve.rates import Rates
from lifelong.serve.served import served
from lifelong.serve.versions import Version, from_folder

SILENT = 5.0
"""Seconds without a word after which a trainer that runs is said to be silent."""
SHOWN = 30
"""Versions, and rows of the quarantine and of the audit, in one answer."""
PROMOTIONS = 500


class Status:
    """Gather what there is to see of a service; reads only, and stops at nothing that is damaged.

    Each part stands alone: one that cannot be read is None, or says why. Answers are kept for half
    a second, so that many consoles cost as one.

    Args:
        folder: of the service.
        log, audit: as the api has them open.
        serving: champion and challenger, as they answer now.
        mode: of releases, to be shown.
        clock: seconds since 1970.
        pace: seconds that never go back.
    """

    def __init__(
        self,
        folder: Path,
        log: SQLiteLog,
        audit: Audit,
        serving: Callable[[], tuple[int, int | None]],
        *,
        mode: str = "automatic",
        clock: Callable[[], float] = time.time,
        pace: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.log, self.audit, self.serving = folder, log, audit, serving
        self.mode, self.clock, self.pace = mode, clock, pace
        self.rates = Rates(pace)
        self._one = threading.Lock()
        self._promotions: list[tuple[float, int]] = []
        self._read = 0
        self._checked: dict[str, Any] | None = None
        self._again = 0.0
        self._kept: tuple[float, dict[str, Any]] | None = None

    def sample(self) -> None:
        """Count the events; to be called once a second."""
        with contextlib.suppress(LogError):
            self.rates.add(self.log.counts())

    def now(self) -> dict[str, Any]:
        """Return everything, as JSON values; may be called in any thread."""
        with self._one:
            if self._kept is None or self.pace() - self._kept[0] >= 0.5:
                self._kept = (self.pace(), self._gather())
            return self._kept[1]

    def _gather(self) -> dict[str, Any]:
        now = self.clock()
        told = read_progress(self.folder / "trainer" / "status.json")
        known = told if isinstance(told, Progress) else None
        champion, challenger = self.serving()
        audit = self._audit()
        return {
            "time": now,
            "mode": self.mode,
            "champion": champion,
            "challenger": challenger,
            "trainer": self._trainer(told, now),
            "accuracy": None if known is None else _accuracy(known),
            "anchors": None if known is None else _anchors(known),
            "matrix": None if known is None else _matrix(known),
            "events": self.rates.shown(),
            "delay": None if known is None else self._delay(known, now),
            "trial": None if known is None else known.trial,
            "guardrail": None if known is None else known.guardrail,
            "versions": self._versions(champion),
            "quarantine": self._quarantine(),
            "audit": audit,
        }

    def _trainer(self, told: Progress | str, now: float) -> dict[str, Any]:
        if isinstance(told, str):
            return {"state": "unknown", "why": told}
        age = max(now - told.time, 0.0)
        state = "dead" if not runs(told.pid) else "silent" if age > SILENT else "alive"
        with contextlib.suppress(LogError):
            behind = max(self.log.last - told.offset, 0)
            return {
                "state": state,
                "age": age,
                "offset": told.offset,
                "behind": behind,
                "rows": told.rows,
                "steps": told.steps,
                "period": told.period,
            }
        return {"state": state, "age": age, "why": "the event log cannot be read"}

    def _delay(self, known: Progress, now: float) -> dict[str, Any]:
        found = delays(known.learned, self._promotions, now)
        rows, oldest = known.unreleased
        found["waiting"] += rows
        if oldest is not None:
            found["oldest"] = max(found["oldest"] or 0.0, now - oldest)
        return found

    def _versions(self, champion: int) -> dict[str, Any] | None:
        """Describe the newest versions and the champion, from their files: MLflow is slow."""
        numbers = sorted(
            int(f.name) for f in (self.folder / "versions").iterdir() if f.name.isdecimal()
        )
        before: list[int] = []
        with contextlib.suppress(RegistryError):
            before = served(self.folder)["previous"]
        shown = {*numbers[-SHOWN:], champion, *before[-1:]} & {*numbers}
        rows = []
        for number in sorted(shown, reverse=True):
            with contextlib.suppress(RegistryError):
                rows.append(_version(from_folder(self.folder / "versions" / str(number))))
        return {"total": len(numbers), "previous": before[-SHOWN:], "newest": rows}

    def _quarantine(self) -> dict[str, Any]:
        folder = self.folder / "trainer"
        try:
            return {"counts": refused_counts(folder), "newest": refused(folder, SHOWN, before=LAST)}
        except LogError as error:
            return {"counts": {}, "newest": [], "why": str(error)}

    def _audit(self) -> dict[str, Any]:
        """Show the newest decisions, and whether the chain of all of them holds."""
        try:
            entries, head = self.audit.head()
            self._follow(entries)
            tail = self.audit.entries(max(entries - SHOWN, 0), SHOWN)
        except LifelongError as error:
            return {"entries": None, "head": None, "tail": [], "problems": [str(error)]}
        start = self.pace()
        if self._checked is None or start >= self._again:
            try:
                problems = chain.verify(self.audit.path, (entries, head))
            except AuditError as error:
                problems = [str(error)]
            self._checked = {"problems": problems[:10], "checked": self.clock()}
            # All of it is read: at most a twentieth of the time goes into that.
            self._again = start + max(5.0, 20 * (self.pace() - start))
        return {"entries": entries, "head": head, "tail": tail[::-1], **self._checked}

    def _follow(self, entries: int) -> None:
        """Read on in the audit: when was which version served?"""
        while self._read < entries:
            found = self.audit.entries(self._read, 1000)
            for entry in found:
                if entry["action"] in ("promote", "rollback"):
                    self._promotions.append((entry["time"], entry["details"]["version"]))
            self._read += len(found)
            self._promotions = self._promotions[-PROMOTIONS:]


def runs(pid: int) -> bool:
    """Tell whether there is a process of this id that has not ended.

    Example:
        >>> runs(os.getpid()), runs(2**22 + 1)
        (True, False)
    """
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):  # not everywhere is there such a file
        # One that has ended keeps its id until its parent has noticed.
        return not Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].startswith(b" Z")
    return True


def _accuracy(known: Progress) -> dict[str, Any]:
    def rate(right: int, rows: int) -> dict[str, Any]:
        return {"rows": rows, "accuracy": right / rows if rows else None}

    points = [[point.time, point.recent] for point in known.points]
    return {"recent": rate(*known.recent), "period": rate(*known.of_period), "points": points}


def _anchors(known: Progress) -> dict[str, Any]:
    """What the champion gets right on anchors, now and over time."""
    last = known.points[-1] if known.points else Point(0.0, 0, {})
    groups = [
        {
            "group": group,
            "rows": rows,
            "accuracy": last.accuracy.get(group),
            "best": known.best.get(group),
            "forgetting": last.forgetting.get(group),
        }
        for group, rows in sorted(known.anchors.items())
    ]
    return {
        "kind": "period" if known.task is None else "task",
        "groups": groups,
        "points": known.points,
        "mean": _mean(last.forgetting.values()),
    }


def _matrix(known: Progress) -> dict[str, Any]:
    """What the learner got right on anchors at the end of each period, and has forgotten since.

    As in `lifelong.metrics.forgetting`, of the tasks or periods before the last row's own: the best
    in any row before the last, less the last.
    """
    rows = known.matrix
    groups = sorted({group for row in rows for group in row.accuracy})
    forgetting: dict[int, float | None] = dict.fromkeys(groups)
    if len(rows) > 1:
        for group in groups:
            known_before = [row.accuracy[group] for row in rows[:-1] if group in row.accuracy]
            if known_before and group in rows[-1].accuracy and group != rows[-1].group:
                forgetting[group] = max(known_before) - rows[-1].accuracy[group]
    found = [value for value in forgetting.values() if value is not None]
    return {"groups": groups, "rows": rows, "forgetting": forgetting, "mean": _mean(found)}


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _version(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "parent": version.parent,
        "first_offset": version.first_offset,
        "last_offset": version.last_offset,
        "metrics": version.metrics,
        "time": version.time,
        "retired": version.retired,
        "servable": version.servable,
        "note": version.note,
    }
