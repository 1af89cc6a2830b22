"""The SQLite file of an event log: its tables, its connections, and who may write.

Layout: `events.db` in WAL mode (beside it, while it is open, `-wal` and `-shm`); `writer.lock`,
which the writing process holds and which names its pid; and `tail`, the last offset that was
acknowledged, so that lost last rows are missed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from lifelong.core.errors import LogError
from lifelong.serve.records import COLUMNS, digest_of
from lifelong.serve.scrubbing import Pages, zero
from lifelong.serve.tail import Tail

SQLITE = (3, 51, 3)
"""The first SQLite whose WAL cannot be damaged by a checkpoint during a write."""
_FORMAT = 0x4C4C4F47
_SCHEMA = 2
_WAIT_MS = 10_000
WAL_PAGES = 4_000
"""Pages of the WAL from which on they are brought into the file."""
SCRUBBED = 128
"""Pages that are looked at while others wait to write."""
_SETTINGS = {
    "synchronous": 2,  # FULL: each commit waits for the disk
    "fullfsync": 1,  # macOS, where fsync alone does not wait
    "checkpoint_fullfsync": 1,
    "secure_delete": 1,
    "journal_size_limit": 64 << 20,
}
_TABLES = f"""
    CREATE TABLE events(
        offset INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        time REAL NOT NULL, about TEXT, task INTEGER, subject TEXT, source TEXT,
        data BLOB NOT NULL, digest BLOB NOT NULL) STRICT;
    CREATE INDEX labels ON events(about) WHERE kind = 'label';
    CREATE INDEX subjects ON events(subject) WHERE subject IS NOT NULL;
    CREATE INDEX decided ON events(kind, offset) WHERE kind IN ('decision', 'erasure');
    CREATE TABLE gone(
        offset INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL UNIQUE,
        erased INTEGER NOT NULL, subject BLOB, row INTEGER, digest BLOB NOT NULL) STRICT;
    CREATE INDEX traces ON gone(subject) WHERE subject IS NOT NULL;
    CREATE TABLE counts(kind TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;
    CREATE TABLE state(
        salt BLOB NOT NULL, digest BLOB NOT NULL, trimmed INTEGER NOT NULL,
        forgot INTEGER NOT NULL, stale INTEGER NOT NULL, rewritten REAL NOT NULL,
        scrub INTEGER NOT NULL) STRICT;
    PRAGMA application_id = {_FORMAT};
    PRAGMA user_version = {_SCHEMA};
"""
_COUNTING = """
    CREATE TEMP TRIGGER added AFTER INSERT ON events BEGIN
        INSERT INTO counts VALUES(NEW.kind, 1) ON CONFLICT(kind) DO UPDATE SET n = n + 1;
    END;
    CREATE TEMP TRIGGER removed AFTER DELETE ON events BEGIN
        UPDATE counts SET n = n - 1 WHERE kind = OLD.kind;
    END;
"""
"""Of the one connection that writes: events of each kind are counted where they change."""
LAST = "SELECT CAST(ifnull(max(seq), 0) AS INTEGER) FROM sqlite_sequence WHERE name = 'events'"


class Store:
    """One writing connection, if any, and as many reading ones as threads need at once.

    Args:
        folder: where the file is; created when `write` is true.
        write: whether to hold the lock of the one process that writes.

    Raises:
        LogError: as `lifelong.serve.log.SQLiteLog`.
    """

    def __init__(self, folder: Path, write: bool) -> None:
        self.folder = folder
        self.path = folder / "events.db"
        self.lock = threading.RLock()
        self._scrubbing = threading.Lock()
        self._patience = _WAIT_MS / 1000
        self.writer: apsw.Connection | None = None
        self.given = 0
        """The last offset that was given out; of a log that is only read, 0."""
        self.gone = True
        """Whether there may be events that were removed, whose ids are still known."""
        self._tail = Tail(folder / "tail")
        self._wal = 0
        """Pages that the WAL has."""
        self._idle: list[apsw.Connection] = []
        self._owner: int | None = None
        self._closed = threading.Event()
        version = apsw.sqlite_lib_version()
        if tuple(int(part) for part in version.split(".")) < SQLITE:
            raise LogError(f"apsw brings SQLite {version}; pip install 'apsw>=3.51.3'")
        try:
            self._open(write)
        except OSError as error:
            self.close()
            raise LogError(f"cannot open {self.path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the log and let another process write; harmless when called again."""
        with self.lock:
            self._closed.set()
            while self._idle:
                self._idle.pop().close()
            if self.writer is not None:
                with contextlib.suppress(apsw.Error):  # what is in the WAL is durable there, too
                    self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self.writer.close()
                self.writer = None
            self._tail.close()
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None

    def _open(self, write: bool) -> None:
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = _own(self.folder)
        elif not self.path.exists():
            raise LogError(f"there is no event log in {self.folder}; start what writes it first")
        if _cut_off(self.path):
            raise LogError(f"{self.path} is damaged: its end is missing; restore a backup")
        with self.explained("open"):
            if write:
                self.writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
                _prepare(self.writer)
                _sync(self.folder)
                _sync(self.folder.parent)
        acknowledged = self._tail.read()  # before the log, which may grow meanwhile
        with self.reading() as db:
            found = (db.pragma("application_id"), db.pragma("user_version"))
            if found[0] != _FORMAT:
                raise LogError(f"{self.path} is not an event log, or is only now being created")
            if found[1] != _SCHEMA:
                raise LogError(f"{self.path} has schema {found[1]}; this version reads {_SCHEMA}")
            salt, check, unfinished = (
                db.execute("SELECT salt, digest, scrub FROM state").get or [0] * 3
            )
            if digest_of(salt) != check:
                raise LogError(f"{self.path} is damaged: it has lost its salt; restore a backup")
        self.salt: bytes = salt
        self._check_tail(acknowledged)
        if self.writer is not None:
            with self.explained("open"):
                self.writer.set_wal_hook(self._grown)
                self.writer.execute(_COUNTING)
                self.given = self.writer.execute(LAST).get
                self.gone = bool(self.writer.execute("SELECT EXISTS(SELECT 1 FROM gone)").get)
        # A process that died may have left commits that were written but not synced. Whoever opens
        # the file next sees them, so they have to be on disk before anything is learned from them.
        with contextlib.suppress(FileNotFoundError):
            _sync(self.path.with_name("events.db-wal"))
        if write and unfinished:
            self.scrub()

    def _check_tail(self, acknowledged: int) -> None:
        with self.reading() as db:
            last = db.execute(LAST).get
        if acknowledged <= last:
            return
        with self.lock:
            for one in (*self._idle, *filter(None, [self.writer])):  # leave what is left to see
                one.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if self.writer is not None:
                self.writer.close()
                self.writer = None
        raise LogError(
            f"{self.path}: the events {last + 1} to {acknowledged} were acknowledged, and are not "
            f"there: {self.path.name}-wal is damaged or was removed; restore a backup; to go on "
            f"without them, delete {self._tail.path} and checkpoints with higher offsets"
        )

    def _connect(self, flags: int) -> apsw.Connection:
        db = apsw.Connection(str(self.path), flags=flags)
        db.set_busy_timeout(_WAIT_MS)
        db.pragma("cell_size_check", True)
        return db

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Turn SQLite's errors into a LogError that says what to do."""
        try:
            yield
        except apsw.FullError as error:
            advice = "the disk is full; make room and try again; nothing half-done was kept"
            raise LogError(f"cannot {doing} in {self.path}: {advice}") from error
        except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
            raise LogError(
                f"{self.path} is damaged ({error}); verify() names what, a backup has the rest"
            ) from error
        except apsw.Error as error:
            raise LogError(f"cannot {doing} in {self.path}: {error}") from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Lend a reading connection, in one transaction: all queries see the same moment."""
        if self._closed.is_set():
            raise LogError(f"the log in {self.folder} is closed; open it again")
        with self.explained("read"):
            try:
                db = self._idle.pop()
            except IndexError:
                db = self._connect(apsw.SQLITE_OPEN_READONLY)
            try:
                with db:
                    yield db
            finally:
                self._idle.append(db)
                if self._closed.is_set():
                    self.close()

    @contextlib.contextmanager
    def writing(self, doing: str) -> Iterator[apsw.Connection]:
        """Lend the writing connection, alone; commit at the end, or undo everything."""
        with self.lock, self.explained(doing):
            db, given = self._lent(doing), self.given
            self._spill()
            try:
                db.execute("BEGIN IMMEDIATE")
                # Whatever was raised before, after a commit or in the midst of one, the file knows.
                self.given = given = db.execute(LAST).get
                yield db
                db.execute("COMMIT")
                self._tail.write(self.given)
            except BaseException:
                self.given = given
                if db.in_transaction:
                    with contextlib.suppress(apsw.Error):
                        db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def adding(self) -> Iterator[apsw.Connection]:
        """Lend the writing connection, alone, for one statement: it is a transaction by itself.

        Each statement more gives up the interpreter, and waits for it while it is busy.
        """
        with self.lock, self.explained("append"):
            db = self._lent("append")
            self._spill()
            yield db
            self._tail.write(self.given)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[bool]:
        """Hold the lock if nobody else does and no long work is due; tell whether, at once."""
        free = self.lock.acquire(blocking=False)
        try:
            yield free and self._wal < WAL_PAGES
        finally:
            if free:
                self.lock.release()

    def _spill(self) -> None:
        """Bring what is in the WAL into the file when it is long, which takes some time.

        Before the next commit, not after the one that made it so long: that may be a loop's, which
        `at_once` keeps from the next.
        """
        if self._wal >= WAL_PAGES and self.writer is not None:
            with contextlib.suppress(apsw.Error):  # what is in the WAL is durable there, too
                self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._wal = 0  # the next commit says what is left

    def _grown(self, db: apsw.Connection, name: str, pages: int) -> int:
        """Note how long the WAL is; SQLite says so after each commit."""
        del db, name
        self._wal = pages
        return apsw.SQLITE_OK

    def _lent(self, doing: str) -> apsw.Connection:
        if self.writer is None:
            why = "closed" if self._closed.is_set() else "not open with write=True"
            raise LogError(f"cannot {doing}: the log in {self.folder} is {why}")
        return self.writer

    def scrub(self, pause: float = 0.0) -> None:
        """Zero every byte that no row uses, so that no byte of what was removed stays.

        In steps of `SCRUBBED` pages, between which others may write.

        Args:
            pause: after each step, as a multiple of what it took.
        """
        with self._scrubbing, self.explained("rewrite"):
            with self.writing("rewrite") as db:
                asked = db.execute("SELECT scrub FROM state").get
                db.execute("UPDATE state SET stale = 2 WHERE stale")  # 1 where more is trimmed
            page: int | None = 2
            while page is not None:
                start = time.perf_counter()
                page = self._scrub_some(page)
                if pause:  # who waits gets the lock only while nobody else asks for it
                    time.sleep(max(pause * (time.perf_counter() - start), 0.0005))
            with self.lock:
                self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            with self.writing("rewrite") as db:
                done = "UPDATE state SET scrub = scrub - ?, rewritten = ?, "
                done += "stale = CASE stale WHEN 2 THEN 0 ELSE stale END"
                db.execute(done, (asked, time.time()))

    def _scrub_some(self, first: int) -> int | None:
        """Zero what is unused in the next pages; return the page to go on with, None at the end."""
        with self.lock:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)  # all pages are in the file now
            assert self.writer is not None
            pages = Pages(self.writer)
            last = min(first + SCRUBBED - 1, pages.count)
            if zero(pages, first, last):
                self.writer.release_memory()  # or it would write what it has read before
            return last + 1 if last < pages.count else None

    def _checkpoint(self, mode: int) -> None:
        """Bring all of the WAL into the file; readers of an older state are waited for."""
        until = time.monotonic() + self._patience
        while True:
            if self.writer is None:
                raise LogError(f"cannot rewrite: the log in {self.folder} is closed")
            frames, done = self.writer.wal_checkpoint(mode=mode)
            if frames == done:
                return
            if time.monotonic() > until:
                raise LogError(f"cannot rewrite {self.path}: somebody reads an old state of it")
            time.sleep(0.005)

    def give_back(self, pages: int) -> int:
        """Return up to so many free pages to the file system; tell how many are left."""
        with self.lock, self.explained("shrink"):
            if self.writer is None:
                return 0
            self.writer.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
            return int(self.writer.pragma("freelist_count"))

    def size(self) -> int:
        """Return the bytes that the file takes without its free pages."""
        with self.reading() as db:
            pages = db.pragma("page_count") - db.pragma("freelist_count")
            return int(pages * db.pragma("page_size"))

    def fetch(self, db: apsw.Connection, offset: int) -> tuple[Any, ...]:
        """Return the columns but the digest of one event, after checking it."""
        query = f"SELECT {COLUMNS} FROM events WHERE offset = ?"
        try:
            row = db.execute(query, (offset,)).get
        except (UnicodeDecodeError, apsw.CorruptError) as error:
            raise self._damaged(offset) from error
        if row is None:  # an index or a scan led here, so the tree is torn
            raise self._damaged(offset)
        return self.checked(row)

    def checked(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a row without its digest, if that is right."""
        *fields, digest = row
        if digest_of(*fields) != digest:
            raise self._damaged(fields[-1])
        return tuple(fields)

    def _damaged(self, offset: int) -> LogError:
        return LogError(f"{self.path}: the event at offset {offset} is damaged; restore a backup")


def _cut_off(path: Path) -> bool:
    """Tell whether a database file has fewer pages than it says, even with all that its WAL has.

    SQLite would notice only when something has to be read that is not there.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        header = file.read(32)
    page = int.from_bytes(header[16:18], "big")
    page = page if page > 1 else 65_536
    wal = path.with_name(f"{path.name}-wal")
    frames = wal.stat().st_size // page if wal.exists() else 0
    return path.stat().st_size // page + frames < int.from_bytes(header[28:32], "big")


def _prepare(db: apsw.Connection) -> None:
    new = not db.execute("SELECT EXISTS(SELECT 1 FROM sqlite_schema)").get
    if new:  # only a file without tables takes it, and another would be written to for nothing
        db.pragma("auto_vacuum", 2)
    mode = db.pragma("journal_mode", "wal")
    if mode != "wal":  # SQLite says so and goes on, where shared memory is missing
        raise LogError(f"{db.filename} gets journal mode {mode!r}, not 'wal'; use a local disk")
    for name, value in _SETTINGS.items():
        db.pragma(name, value)
    with db:
        if new:
            db.execute(_TABLES)
            salt = os.urandom(32)
            values = (salt, digest_of(salt), time.time())
            db.execute("INSERT INTO state VALUES(?, ?, 0, 0, 0, ?, 0)", values)


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
