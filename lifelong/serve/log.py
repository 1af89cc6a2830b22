"""The event log in a folder: SQLite, one process that writes, any number that read.

Layout: `events.db` in WAL mode (beside it, while it is open, `-wal` and `-shm`), and `writer.lock`,
which the writing process holds and which names its pid. Data is JSON; each row has a BLAKE2b of
itself. Every offset up to the last is either in `events` or in `gone`, so a lost row is noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import apsw
import msgspec

from lifelong.core.errors import LogError
from lifelong.serve.events import KINDS, Event

SQLITE = (3, 51, 3)
"""The first SQLite whose WAL cannot be damaged by a checkpoint during a write."""
_FORMAT = 0x4C4C4F47
_SCHEMA = 1
_WAIT_MS = 10_000
_CHUNK = 1_000
_SETTINGS = {
    "synchronous": 2,  # FULL: each commit waits for the disk
    "fullfsync": 1,  # macOS, where fsync alone does not wait
    "checkpoint_fullfsync": 1,
    "secure_delete": 1,
    "wal_autocheckpoint": 4_000,  # pages
    "journal_size_limit": 64 << 20,
}
_COLUMNS = "kind, id, time, data, about, task, subject, source, offset, digest"
_TABLES = f"""
    CREATE TABLE events(
        offset INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        time REAL NOT NULL, about TEXT, task INTEGER, subject TEXT, source TEXT,
        data BLOB NOT NULL, digest BLOB NOT NULL) STRICT;
    CREATE INDEX labels ON events(about) WHERE kind = 'label';
    CREATE INDEX subjects ON events(subject) WHERE subject IS NOT NULL;
    CREATE TABLE gone(
        offset INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL UNIQUE,
        digest BLOB NOT NULL) STRICT;
    CREATE TABLE counts(kind TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;
    CREATE TABLE state(
        salt BLOB NOT NULL, digest BLOB NOT NULL, trimmed INTEGER NOT NULL,
        scrub INTEGER NOT NULL) STRICT;
    PRAGMA application_id = {_FORMAT};
    PRAGMA user_version = {_SCHEMA};
"""
_INSERT = f"INSERT INTO events({_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?)"
_LAST = "SELECT CAST(ifnull(max(seq), 0) AS INTEGER) FROM sqlite_sequence WHERE name = 'events'"
_OF_SUBJECT = """
    SELECT offset FROM events WHERE subject = ?1 AND kind != 'erasure' UNION
    SELECT label.offset FROM events p JOIN events label ON label.about = p.id
    WHERE p.subject = ?1 AND p.kind = 'prediction' AND label.kind = 'label'
"""


class InvalidEvent(LogError, ValueError):
    """An event that a log cannot hold: NaN, a label about nothing, an unknown kind."""


class Conflict(LogError, ValueError):
    """An id that the log has already, with another content."""


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
        self._path = self.folder / "events.db"
        self._lock = threading.RLock()
        self._idle: list[apsw.Connection] = []
        self._owner: int | None = None
        self._writer: apsw.Connection | None = None
        self._closed = threading.Event()
        version = apsw.sqlite_lib_version()
        if tuple(int(part) for part in version.split(".")) < SQLITE:
            raise LogError(f"apsw brings SQLite {version}; pip install 'apsw>=3.51.3'")
        try:
            self._open(write)
        except OSError as error:
            self.close()
            raise LogError(f"cannot open {self._path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def append(self, events: Sequence[Event]) -> list[int]:
        """Add events in one commit and return their offsets, all of them or none.

        An event whose id the log has already is not added; its offset is that of the first, if
        kind, data, about, task and subject are the same. An erased or trimmed event keeps its
        offset and is not added again; its content is gone, so it is not compared.

        Raises:
            Conflict: an id is known with another content.
            InvalidEvent: an event is not one, or its data is not finite, plain JSON.
        """
        rows = [_row(event) for event in events]
        with self._writing("append") as db:
            offsets = []
            for result in self._insert(db, rows):
                if isinstance(result, Conflict):
                    raise result
                offsets.append(result)
        return offsets

    def append_each(self, events: Sequence[Event]) -> list[int | LogError]:
        """Add those events that can be added, in one commit; the others' errors stand for them."""
        rows: list[tuple[Any, ...] | InvalidEvent] = []
        for event in events:
            try:
                rows.append(_row(event))
            except InvalidEvent as error:
                rows.append(error)
        with self._writing("append") as db:
            good = iter(self._insert(db, (row for row in rows if isinstance(row, tuple))))
            return [next(good) if isinstance(row, tuple) else row for row in rows]

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with offsets above `after`, in order.

        Offsets of erased events are passed over.

        Raises:
            LogError: an event is damaged (its offset is named), or events after `after` were
                trimmed, so that what follows is not the whole story.
        """
        if limit < 0:
            raise ValueError(f"limit is {limit}; give the most events to return, 0 or more")
        query = f"SELECT {_COLUMNS} FROM events WHERE offset > ? ORDER BY offset LIMIT ?"
        with self._reading() as db:
            trimmed = db.execute("SELECT trimmed FROM state").get
            if after < trimmed:
                raise LogError(
                    f"{self._path} was trimmed up to offset {trimmed}, so it cannot be read from "
                    f"{after} on; start from a checkpoint at {trimmed} or later"
                )
            try:
                rows = db.execute(query, (after, limit)).fetchall()
            except (UnicodeDecodeError, apsw.CorruptError):
                # One by one, to name the offset of the damaged one.
                offsets = query.replace(_COLUMNS, "offset")
                found: list[Any] = db.execute(offsets, (after, limit)).fetchall()
                for (offset,) in found:
                    self._fetch(db, offset)
                raise
            return [_event(self._checked(row)) for row in rows]

    def find(self, id: str) -> Event | None:
        """Return the event with this id; None if there is none, or it was erased or trimmed."""
        return self._first("SELECT offset FROM events WHERE id = ?", id)

    def label_of(self, prediction: str) -> Event | None:
        """Return the first label about this prediction."""
        return self._first(
            "SELECT offset FROM events WHERE about = ? AND kind = 'label' ORDER BY offset LIMIT 1",
            prediction,
        )

    @property
    def last(self) -> int:
        """The highest offset given so far, or 0; it stays when the event is erased or trimmed."""
        with self._reading() as db:
            return int(db.execute(_LAST).get)

    @property
    def trimmed(self) -> int:
        """The offset up to which events were dropped; reading starts there at the earliest."""
        with self._reading() as db:
            return int(db.execute("SELECT trimmed FROM state").get)

    def counts(self) -> dict[str, int]:
        """Return how many events of each kind the log holds."""
        with self._reading() as db:
            return dict.fromkeys(KINDS, 0) | dict(db.execute("SELECT kind, n FROM counts"))

    def first_of(self, subject: str) -> int | None:
        """Return the lowest offset that `erase` would remove, for the erasure event before it."""
        with self._reading() as db:
            offset: int | None = db.execute(
                f"SELECT min(offset) FROM ({_OF_SUBJECT})", (subject,)
            ).get
            return offset

    def offsets_of(self, subject: str) -> list[int]:
        """Return the offsets that `erase` would remove, ascending."""
        with self._reading() as db:
            found: list[Any] = db.execute(_OF_SUBJECT, (subject,)).fetchall()
            return sorted(offset for (offset,) in found)

    def erase(self, subject: str) -> int:
        """Remove a subject's events and the labels about their predictions; return how many.

        No byte of them stays in the folder: the whole file is rewritten, which takes time and free
        space in proportion to it, and appends wait. If that fails or the process dies, the events
        are removed all the same, and calling again or opening the log completes the rewriting.
        What stays of an event is its offset, its kind and a keyed hash of its id, so that sending
        it again does not bring it back. A hash, because ids may name people; its key is in the log,
        so who has the log can test a guess, but cannot list ids. Events of kind `erasure` stay:
        they tell readers to forget. Give a label its own subject, if its prediction can be trimmed
        or erased before it comes: no other link remains then.
        """
        with self._lock:
            with self._writing("erase") as db:
                offsets = [offset for (offset,) in db.execute(_OF_SUBJECT, (subject,))]
                self._remove(db, offsets)
                db.execute("UPDATE state SET scrub = 1")
            self._scrub()
        return len(offsets)

    def trim(self, before_offset: int) -> int:
        """Remove the events below an offset, and return how many that were.

        Their offsets are not given again, and their ids stay known (as hashes, about 70 bytes an
        event, for ever), so sending one again adds nothing. Their space is used for new events; the
        file does not get smaller. Committed in parts, so that appends come in between.
        """
        removed = 0
        query = "SELECT offset FROM events WHERE offset < ? ORDER BY offset LIMIT ?"
        while True:
            with self._writing("trim") as db:
                limit = min(before_offset, db.execute(_LAST).get + 1)
                offsets = [offset for (offset,) in db.execute(query, (limit, _CHUNK))]
                self._remove(db, offsets)
                done = len(offsets) < _CHUNK
                upto = limit - 1 if done else offsets[-1]
                db.execute("UPDATE state SET trimmed = max(trimmed, ?)", (upto,))
            removed += len(offsets)
            if done:
                return removed

    def verify(self) -> list[str]:
        """Read everything and return what is damaged, in words; an empty list if nothing is."""
        found: list[str] = []
        for check in (_check_pages, self._check_events, _check_gone, _check_offsets):
            try:
                with self._reading() as db:
                    for problem in check(db):
                        found.append(problem)  # noqa: PERF402 - kept if the next one raises
            except LogError as error:
                found.append(str(error))
        return found

    def close(self) -> None:
        """Close the log and let another process write; harmless when called again."""
        with self._lock:
            self._closed.set()
            while self._idle:
                self._idle.pop().close()
            if self._writer is not None:
                with contextlib.suppress(apsw.Error):  # what is in the WAL is durable there, too
                    self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._writer.close()
                self._writer = None
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None

    def __enter__(self) -> SQLiteLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, write: bool) -> None:
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = _own(self.folder)
        elif not self._path.exists():
            raise LogError(f"there is no event log in {self.folder}; start what writes it first")
        with self._explained("open"):
            if write:
                self._writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
                _prepare(self._writer)
                _sync(self.folder)
                _sync(self.folder.parent)
        with self._reading() as db:
            found = (db.pragma("application_id"), db.pragma("user_version"))
            if found[0] != _FORMAT:
                raise LogError(f"{self._path} is not an event log, or is only now being created")
            if found[1] != _SCHEMA:
                raise LogError(f"{self._path} has schema {found[1]}; this version reads {_SCHEMA}")
            salt, check, scrub = db.execute("SELECT salt, digest, scrub FROM state").get or [0] * 3
            if _digest(salt) != check:
                raise LogError(f"{self._path} is damaged: it has lost its salt; restore a backup")
        self._salt: bytes = salt
        # A process that died may have left commits that were written but not synced. Whoever opens
        # the file next sees them, so they have to be on disk before anything is learned from them.
        with contextlib.suppress(FileNotFoundError):
            _sync(self._path.with_name("events.db-wal"))
        if write and scrub:
            self._scrub()

    def _connect(self, flags: int) -> apsw.Connection:
        db = apsw.Connection(str(self._path), flags=flags)
        db.set_busy_timeout(_WAIT_MS)
        db.pragma("cell_size_check", True)
        return db

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except apsw.FullError as error:
            advice = "the disk is full; make room and try again; nothing half-done was kept"
            raise LogError(f"cannot {doing} in {self._path}: {advice}") from error
        except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
            raise LogError(
                f"{self._path} is damaged ({error}); verify() names what, a backup has the rest"
            ) from error
        except apsw.Error as error:
            raise LogError(f"cannot {doing} in {self._path}: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        if self._closed.is_set():
            raise LogError(f"the log in {self.folder} is closed; open it again")
        with self._explained("read"):
            try:
                db = self._idle.pop()
            except IndexError:
                db = self._connect(apsw.SQLITE_OPEN_READONLY)
            try:
                with db:  # one transaction, so that all queries see the same moment
                    yield db
            finally:
                self._idle.append(db)
                if self._closed.is_set():
                    self.close()

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[apsw.Connection]:
        with self._lock, self._explained(doing):
            db = self._writer
            if db is None:
                why = "closed" if self._closed.is_set() else "not open with write=True"
                raise LogError(f"cannot {doing}: the log in {self.folder} is {why}")
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    with contextlib.suppress(apsw.Error):
                        db.execute("ROLLBACK")
                raise

    def _insert(self, db: apsw.Connection, rows: Iterable[tuple[Any, ...]]) -> list[int | Conflict]:
        last = db.execute(_LAST).get
        any_gone = db.execute("SELECT EXISTS(SELECT 1 FROM gone)").get
        results: list[int | Conflict] = []
        added: Counter[str] = Counter()
        for row in rows:
            known = db.execute("SELECT offset FROM events WHERE id = ?", (row[1],)).get
            if known is None and any_gone:
                gone = "SELECT offset FROM gone WHERE key = ?"
                if (offset := db.execute(gone, (self._key(row[1]),)).get) is not None:
                    results.append(offset)
                    continue
            if known is None:
                last += 1
                db.execute(_INSERT, (*row, last, _digest(*row, last)))
                added[row[0]] += 1
            results.append(last if known is None else self._again(db, row, known))
        _count(db, added)
        return results

    def _again(self, db: apsw.Connection, row: tuple[Any, ...], offset: int) -> int | Conflict:
        first = self._fetch(db, offset)
        fields = {"kind": 0, "data": 3, "about": 4, "task": 5, "subject": 6}
        other = [name for name, place in fields.items() if row[place] != first[place]]
        if not other:
            return offset
        return Conflict(
            f"event {row[1]!r} is in the log already, at offset {offset}, with another "
            f"{', '.join(other)}; give what is new an id of its own"
        )

    def _remove(self, db: apsw.Connection, offsets: Sequence[int]) -> None:
        removed: Counter[str] = Counter()
        for offset in offsets:
            query = "DELETE FROM events WHERE offset = ? RETURNING id, kind"
            id, kind = db.execute(query, (offset,)).get
            gone = (offset, kind, self._key(id))
            db.execute("INSERT INTO gone VALUES(?, ?, ?, ?)", (*gone, _digest(*gone)))
            removed[kind] -= 1
        _count(db, removed)

    def _scrub(self) -> None:
        with self._explained("rewrite"):
            assert self._writer is not None
            self._writer.execute("VACUUM")  # zeroed cells are not enough: pages keep stale copies
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._writer.execute("UPDATE state SET scrub = 0")

    def _key(self, id: str) -> bytes:
        return hashlib.blake2b(id.encode(), digest_size=16, key=self._salt).digest()

    def _first(self, query: str, value: str) -> Event | None:
        with self._reading() as db:
            offset = db.execute(query, (value,)).get
            return None if offset is None else _event(self._fetch(db, offset))

    def _fetch(self, db: apsw.Connection, offset: int) -> tuple[Any, ...]:
        query = f"SELECT {_COLUMNS} FROM events WHERE offset = ?"
        try:
            row = db.execute(query, (offset,)).get
        except (UnicodeDecodeError, apsw.CorruptError) as error:
            raise self._damaged(offset) from error
        if row is None:  # an index or a scan led here, so the tree is torn
            raise self._damaged(offset)
        return self._checked(row)

    def _checked(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        *fields, digest = row
        if _digest(*fields) != digest:
            raise self._damaged(fields[-1])
        return tuple(fields)

    def _damaged(self, offset: int) -> LogError:
        return LogError(f"{self._path}: the event at offset {offset} is damaged; restore a backup")

    def _check_events(self, db: apsw.Connection) -> Iterator[str]:
        counts: Counter[str] = Counter()
        whole = True
        for (offset,) in db.execute("SELECT offset FROM events ORDER BY offset"):
            try:
                counts[self._fetch(db, offset)[0]] += 1
            except LogError as error:
                whole = False
                yield str(error)
        stored = {kind: n for kind, n in db.execute("SELECT kind, n FROM counts") if n}
        if whole and stored != dict(counts):
            yield f"{self._path}: it counts {stored}, but holds {dict(counts)}"


def _check_pages(db: apsw.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"{db.filename}: {line}"


def _check_gone(db: apsw.Connection) -> Iterator[str]:
    for *fields, digest in db.execute("SELECT offset, kind, key, digest FROM gone"):
        if _digest(*fields) != digest:
            yield f"{db.filename}: what is kept of the removed event {fields[0]} is damaged"


def _check_offsets(db: apsw.Connection) -> Iterator[str]:
    offsets = "SELECT offset FROM events UNION ALL SELECT offset FROM gone ORDER BY offset"
    trimmed = db.execute("SELECT trimmed FROM state").get
    before, last = 0, db.execute(_LAST).get
    if trimmed > last or db.execute("SELECT 1 FROM events WHERE offset <= ?", (trimmed,)).get:
        yield f"{db.filename}: it says that it was trimmed up to {trimmed}, and it was not"
    for (offset,) in (*db.execute(offsets), (last + 1,)):
        if offset != before + 1:
            gap = f"{before + 1} to {offset - 1} are missing" if offset > before else "repeat"
            yield f"{db.filename}: offsets {gap} (at {offset})"
        before = offset


def _row(event: Event) -> tuple[Any, ...]:
    """Return the columns but offset and digest, after checking that the log can hold them."""
    problem = _problem(event)
    data = b""
    if not problem:
        try:
            data = msgspec.json.encode(event.data, order="deterministic")
            # What comes back is what was given: NaN, tuples and other types do not.
            whole, cause = msgspec.json.decode(data) == event.data, ""
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            whole, cause = False, f" ({error})"
        if not whole:
            problem = f"its data is not plain, finite JSON{cause}{_culprit(event.data)}; "
            problem += "give finite numbers, strings, booleans, None, lists and dicts"
    if problem:
        raise InvalidEvent(f"event {event.id!r:.200} cannot be logged: {problem}")
    time = float(event.time)
    return event.kind, event.id, time, data, event.about, event.task, event.subject, event.source


def _problem(event: Event) -> str:
    texts = (event.id, event.about, event.subject, event.source)
    if event.kind not in KINDS:
        return f"its kind is {event.kind!r}; known: {', '.join(KINDS)}"
    try:
        "".join(text for text in texts if text is not None).encode()
    except (TypeError, UnicodeEncodeError) as error:
        return f"id, about, subject and source are not all Unicode text ({error})"
    if not event.id:
        return "it has no id; give it a unique one"
    if event.kind == "label" and not event.about:
        return "it is a label about nothing; give the prediction's id as `about`"
    if event.task is not None and (type(event.task) is not int or abs(event.task) >= 2**63):
        return f"its task is {event.task!r}; give a 64-bit integer or None"
    if not isinstance(event.time, int | float) or not abs(event.time) < 1e12:
        return f"its time is {event.time!r}; give seconds since 1970"
    return "" if isinstance(event.data, dict) else f"its data is {type(event.data)}; give a dict"


def _culprit(value: object, path: str = "data", depth: int = 0) -> str:
    """Say which part of the data is no finite JSON value, if that is not too deep to be found."""
    if type(value) in (dict, list) and depth < 20:
        parts = value.items() if isinstance(value, dict) else enumerate(cast(list[object], value))
        found = (_culprit(part, f"{path}[{key!r}]", depth + 1) for key, part in parts)
        return next((culprit for culprit in found if culprit), "")
    plain = type(value) in (dict, list, str, int, bool, type(None))
    plain = plain or (type(value) is float and math.isfinite(value))
    return "" if plain else f": {path} is {value!r:.80}"


def _event(fields: tuple[Any, ...]) -> Event:
    kind, id, time, data, *rest = fields
    return Event(kind, id, time, msgspec.json.decode(data), *rest)


def _digest(*fields: object) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(fields), digest_size=8).digest()


def _count(db: apsw.Connection, changes: Mapping[str, int]) -> None:
    query = "INSERT INTO counts VALUES(?1, ?2) ON CONFLICT(kind) DO UPDATE SET n = n + ?2"
    db.executemany(query, changes.items())


def _prepare(db: apsw.Connection) -> None:
    mode = db.pragma("journal_mode", "wal")
    if mode != "wal":  # SQLite says so and goes on, where shared memory is missing
        raise LogError(f"{db.filename} gets journal mode {mode!r}, not 'wal'; use a local disk")
    for name, value in _SETTINGS.items():
        db.pragma(name, value)
    with db:
        if not db.execute("SELECT EXISTS(SELECT 1 FROM sqlite_schema)").get:
            db.execute(_TABLES)
            salt = os.urandom(32)
            db.execute("INSERT INTO state VALUES(?, ?, 0, 0)", (salt, _digest(salt)))


def _own(folder: Path) -> int:
    """Take the folder's lock, which ends with the process, and return its descriptor."""
    descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode().strip() or "unknown"
        os.close(descriptor)
        raise LogError(
            f"process {holder} writes the log in {folder}; stop it, or open it with write=False"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
