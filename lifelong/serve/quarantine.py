"""Rows that were not learned from, with the reason: nothing is dropped silently."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from lifelong.core.errors import LogError


@dataclass(frozen=True, slots=True)
class Refused:
    """One row in quarantine.

    Attributes:
        offset: where it became whole in the log, which has its features.
        id: of the event with the features.
        source: who sent it.
        reason: of one word: "schema", "quota", "norm", "loss", "range", "error".
        detail: a sentence.
    """

    offset: int
    id: str
    source: str | None
    reason: str
    detail: str


class Quarantine:
    """A table of refused rows, by offset, so that reading the log again adds nothing twice.

    It holds no features: those are in the log alone, and are erased there.

    Args:
        folder: for `quarantine.db`; None for one in memory.

    Raises:
        LogError: the file cannot be opened. Every method raises it for a damaged file or a full
            disk.

    Example:
        >>> quarantine = Quarantine(None)
        >>> quarantine.add([Refused(7, "e-1", None, "schema", "x has 3 values, not 4")] * 2)
        >>> quarantine.counts(), [row.offset for row in quarantine.rows()]
        ({'schema': 1}, [7])
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = ":memory:" if folder is None else str(folder / "quarantine.db")
        with self._explained():
            self._db = apsw.Connection(self._path)
            self._db.set_busy_timeout(5000)
            self._db.pragma("journal_mode", "wal")
            self._db.pragma("secure_delete", "on")
            self._db.execute(
                "create table if not exists refused (offset integer primary key, id text, "
                "source text, reason text, detail text)"
            )

    def add(self, rows: Iterable[Refused]) -> None:
        """Add rows; one whose offset is there already changes nothing."""
        values = [(r.offset, r.id, r.source, r.reason, r.detail) for r in rows]
        if values:
            with self._explained(), self._db:
                self._db.executemany("insert or ignore into refused values (?, ?, ?, ?, ?)", values)

    def rows(self, after: int = 0, limit: int = 100) -> list[Refused]:
        """Return up to `limit` rows with offsets above `after`, in order."""
        with self._explained():
            found = self._db.execute(
                "select * from refused where offset > ? order by offset limit ?", (after, limit)
            )
            return [Refused(*row) for row in found]

    def counts(self) -> dict[str, int]:
        """Count the rows by reason."""
        with self._explained():
            counts = "select reason, count(*) from refused group by 1 order by 1"
            return dict(self._db.execute(counts))

    def forget(self, from_offset: int) -> None:
        """Drop what is known from an offset on, before the log is read again from there."""
        with self._explained(), self._db:
            self._db.execute("delete from refused where offset >= ?", (from_offset,))
        # A detail may quote what was received: it must not stay behind in the write-ahead log.
        with self._explained():
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise LogError(
                f"{self._path} is damaged ({error}); restore a backup, or delete it: the rows "
                "refused so far are then no longer listed, and stay unlearned"
            ) from error
        except apsw.Error as error:
            raise LogError(f"{self._path} cannot be used: {error}; is the disk full?") from error

    def drop(self, upto: int) -> None:
        """Drop rows up to an offset: the log no longer has their features."""
        with self._db:
            self._db.execute("delete from refused where offset <= ?", (upto,))
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()
