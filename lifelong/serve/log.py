"""The event log in a folder: SQLite, one process that writes, any number that read.

Layout: `events.db` in WAL mode (beside it, while it is open, `-wal` and `-shm`), and `writer.lock`,
which the writing process holds and which names its pid. Data is JSON; each row has a BLAKE2b of
itself. Every offset up to the last is either in `events` or in `gone`, so a lost row is noticed;
`tail` has the last offset, so that lost last rows are, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apsw

from lifelong.core.errors import LogError
from lifelong.serve import trimming
from lifelong.serve.events import KINDS, Event, Kind
from lifelong.serve.inserting import insert
from lifelong.serve.log_check import problems
from lifelong.serve.records import COLUMNS, Conflict, InvalidEvent, event_of, row_of
from lifelong.serve.store import LAST, Store
from lifelong.serve.trimming import Traces

__all__ = ["Conflict", "InvalidEvent", "SQLiteLog"]

_CHUNK = 1_000
_OF_SUBJECT = """
    SELECT offset FROM events WHERE subject = ?1 AND kind != 'erasure' UNION
    SELECT label.offset FROM events p JOIN events label ON label.about = p.id
    WHERE p.subject = ?1 AND p.kind = 'prediction' AND label.kind = 'label'
"""


class SQLiteLog:
    """Events in one order in a folder, durable once `append` has returned.

    An offset is given once, also after deletions, and offsets have no gaps. An event is seen by
    readers only after it is on disk. All methods may be called from any thread; reads do not wait
    for writes. A log is not to be used on both sides of a fork.

    Args:
        folder: where the log is; created when `write` is true.
        write: whether to add events. One process at a time may; the others read.

    Raises:
        LogError: another process writes, there is no log to read, the file is damaged or not a
            log, or SQLite is older than 3.51.3. Every method raises it for a damaged file, a disk
            that is full or fails, and a closed log; nothing of the call is then written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteLog(folder, write=True) as log:
        ...     log.append([Event("prediction", "p-1", 0.0, {"x": [1.5]}, subject="ann")])
        ...     log.append([Event("label", "l-1", 0.0, {"y": 3}, about="p-1")])
        ...     log.label_of("p-1").data, log.erase("ann"), log.read(after=0, limit=10), log.last
        [1]
        [2]
        ({'y': 3}, 2, [], 2)
    """

    def __init__(self, folder: str | Path, *, write: bool = False) -> None:
        self.folder = Path(folder)
        self._store = Store(self.folder, write)

    def append(self, events: Sequence[Event]) -> list[int]:
        """Add events in one commit and return their offsets, all of them or none.

        An event whose id the log has already is not added; its offset is that of the first, if
        kind, data, about, task and subject are the same. An erased or trimmed event keeps its
        offset and is not added again; its content is gone, so it is not compared.

        Raises:
            Conflict: an id is known with another content.
            InvalidEvent: an event is not one, or its data is not finite, plain JSON.
        """
        rows = [row_of(event) for event in events]
        added = insert(self._store, rows, together=True)  # or it raises the first Conflict
        return [offset for offset in added if isinstance(offset, int)]

    def append_each(self, events: Sequence[Event]) -> list[int | LogError]:
        """Add those events that can be added, in one commit; the others' errors stand for them."""
        rows: list[tuple[Any, ...] | InvalidEvent] = []
        for event in events:
            try:
                rows.append(row_of(event))
            except InvalidEvent as error:
                rows.append(error)
        good = iter(insert(self._store, [row for row in rows if isinstance(row, tuple)]))
        return [next(good) if isinstance(row, tuple) else row for row in rows]

    def at_once(self) -> AbstractContextManager[bool]:
        """Hold the log for a short append if nobody else does; tell whether, instead of waiting."""
        return self._store.at_once()

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with offsets above `after`, in order.

        Offsets of erased events are passed over.

        Raises:
            LogError: an event is damaged (its offset is named), or events after `after` were
                trimmed, so that what follows is not the whole story.
        """
        if limit < 0:
            raise ValueError(f"limit is {limit}; give the most events to return, 0 or more")
        query = f"SELECT {COLUMNS} FROM events WHERE offset > ? ORDER BY offset LIMIT ?"
        with self._store.reading() as db:
            trimmed = db.execute("SELECT trimmed FROM state").get
            if after < trimmed:
                raise LogError(
                    f"{self._store.path} was trimmed up to offset {trimmed}, so it cannot be read "
                    f"from {after} on; start from a checkpoint at {trimmed} or later"
                )
            try:
                rows = db.execute(query, (after, limit)).fetchall()
            except (UnicodeDecodeError, apsw.CorruptError):
                # One by one, to name the offset of the damaged one.
                offsets = query.replace(COLUMNS, "offset")
                found: list[Any] = db.execute(offsets, (after, limit)).fetchall()
                for (offset,) in found:
                    self._store.fetch(db, offset)
                raise
            return [event_of(self._store.checked(row)) for row in rows]

    def find(self, id: str) -> Event | None:
        """Return the event with this id; None if there is none, or it was erased or trimmed."""
        return self._first("SELECT offset FROM events WHERE id = ?", id)

    def label_of(self, prediction: str) -> Event | None:
        """Return the first label about this prediction."""
        return self._first(
            "SELECT offset FROM events WHERE about = ? AND kind = 'label' ORDER BY offset LIMIT 1",
            prediction,
        )

    def of_kinds(self, *kinds: Kind) -> list[Event]:
        """Return all events of some kinds, in order; for kinds of which there are few."""
        query = "SELECT offset FROM events WHERE kind = ?"
        with self._store.reading() as db:
            found = sorted(offset for kind in kinds for (offset,) in db.execute(query, (kind,)))
            return [event_of(self._store.fetch(db, offset)) for offset in found]

    def erased(self, first: int, last: int) -> int:
        """Count the offsets from `first` to `last` whose events were erased."""
        query = "SELECT count(*) FROM gone WHERE erased AND offset BETWEEN ? AND ?"
        with self._store.reading() as db:
            return int(db.execute(query, (first, last)).get)

    @property
    def last(self) -> int:
        """The highest offset given so far, or 0; it stays when the event is erased or trimmed."""
        with self._store.reading() as db:
            return int(db.execute(LAST).get)

    @property
    def trimmed(self) -> int:
        """The offset up to which events were dropped; reading starts there at the earliest."""
        with self._store.reading() as db:
            return int(db.execute("SELECT trimmed FROM state").get)

    def counts(self) -> dict[str, int]:
        """Return how many events of each kind the log holds."""
        with self._store.reading() as db:
            return dict.fromkeys(KINDS, 0) | dict(db.execute("SELECT kind, n FROM counts"))

    def first_of(self, subject: str) -> int | None:
        """Return the lowest offset that `erase` would remove, for the erasure event before it.

        Of a trimmed event that waits for its other half it is the first offset after the trimming:
        a learner that stands there has not seen it.
        """
        query = f"SELECT max(min(offset), (SELECT trimmed + 1 FROM state)) FROM ({_OF_SUBJECT})"
        with self._store.reading() as db:
            offset: int | None = db.execute(query, (subject,)).get
            return offset

    def traces_of(self, subject: str) -> Traces:
        """Tell what was learned from this subject's events that have been trimmed since."""
        return trimming.traces(self._store, subject)

    def offsets_of(self, subject: str) -> list[int]:
        """Return the offsets that `erase` would remove, ascending."""
        with self._store.reading() as db:
            found: list[Any] = db.execute(_OF_SUBJECT, (subject,)).fetchall()
            return sorted(offset for (offset,) in found)

    def erase(self, subject: str) -> int:
        """Remove a subject's events and the labels about their predictions; return how many.

        No byte of them stays in the folder: every page is looked at, which takes time in proportion
        to the file; appends come in between. If that fails or the process dies, the events are
        removed all the same, and calling again or opening the log completes it.
        What stays of an event is its offset, its kind and a keyed hash of its id, so that sending
        it again does not bring it back. A hash, because ids may name people; its key is in the log,
        so who has the log can test a guess, but cannot list ids. Events of kind `erasure` stay:
        they tell readers to forget. Give a label its own subject, if its prediction can be trimmed
        or erased before it comes: no other link remains then.
        """
        with self._store.writing("erase") as db:
            offsets = [offset for (offset,) in db.execute(_OF_SUBJECT, (subject,))]
            trimming.remove(self._store, db, offsets)
            trimming.forget_traces(self._store, db, subject)
            db.execute("UPDATE state SET scrub = scrub + 1")
        self._store.scrub(pause=1.0)
        return len(offsets)

    def trim(self, before_offset: int) -> int:
        """Have the log begin at an offset, remove what came before, and return how many that were.

        Events that a reader from there on needs stay: see `lifelong.serve.trimming.sweep`. Offsets
        are not given again, and ids stay known (as hashes, about 100 bytes an event) until
        `forget_ids`. Committed in parts, so that appends come in between.
        """
        self.mark(before_offset - 1)
        removed = 0
        after: int | None = 0
        while after is not None:
            after, some = self.sweep(after, _CHUNK)
            removed += some
        return removed

    def mark(self, upto: int, passed: int | None = None) -> bool:
        """Have the log begin after an offset, as `lifelong.serve.trimming.mark`."""
        return trimming.mark(self._store, upto, passed)

    def sweep(self, after: int, limit: int) -> tuple[int | None, int]:
        """Remove a part of what was trimmed, as `lifelong.serve.trimming.sweep`."""
        return trimming.sweep(self._store, after, limit)

    def forget_ids(self, remember: int, limit: int = _CHUNK) -> bool:
        """Forget the ids of events that were trimmed long ago; False if no more are."""
        return trimming.forget_ids(self._store, remember, limit)

    def give_back(self, pages: int) -> int:
        """Return up to so many free pages to the file system; tell how many are left."""
        return self._store.give_back(pages)

    @property
    def free(self) -> int:
        """The free pages of the file."""
        with self._store.reading() as db:
            return int(db.pragma("freelist_count"))

    def rewrite(self) -> None:
        """Zero every byte of what was trimmed, in small parts: a fifth of the time, at most."""
        self._store.scrub(pause=4.0)

    @property
    def rewritten(self) -> float | None:
        """When the file was rewritten, in seconds since 1970; None if nothing was trimmed since."""
        with self._store.reading() as db:
            stale, when = db.execute("SELECT stale, rewritten FROM state").get
            return float(when) if stale else None

    @property
    def size(self) -> int:
        """The bytes that the file takes without its free pages."""
        return self._store.size()

    def time_at(self, offset: int) -> float | None:
        """Return when the first event from an offset on was received; None if there is none."""
        query = "SELECT time FROM events WHERE offset >= ? ORDER BY offset LIMIT 1"
        with self._store.reading() as db:
            when: float | None = db.execute(query, (offset,)).get
            return when

    def verify(self) -> list[str]:
        """Read everything and return what is damaged, in words; an empty list if nothing is."""
        return list(problems(self._store))

    def close(self) -> None:
        """Close the log and let another process write; harmless when called again."""
        self._store.close()

    def __enter__(self) -> SQLiteLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _first(self, query: str, value: str) -> Event | None:
        with self._store.reading() as db:
            offset = db.execute(query, (value,)).get
            return None if offset is None else event_of(self._store.fetch(db, offset))
