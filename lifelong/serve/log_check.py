"""The check of a whole event log: pages, checksums, and offsets without gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import apsw

from lifelong.core.errors import LogError
from lifelong.serve.records import digest_of
from lifelong.serve.store import LAST, Store


def problems(store: Store) -> Iterator[str]:
    """Read everything and say what is damaged, in words."""
    for check in (_check_pages, _check_events, _check_gone, _check_offsets):
        try:
            with store.reading() as db:
                yield from check(store, db)
        except LogError as error:
            yield str(error)


def _check_events(store: Store, db: apsw.Connection) -> Iterator[str]:
    counts: Counter[str] = Counter()
    whole = True
    for (offset,) in db.execute("SELECT offset FROM events ORDER BY offset"):
        try:
            counts[store.fetch(db, offset)[0]] += 1
        except LogError as error:
            whole = False
            yield str(error)
    stored = {kind: n for kind, n in db.execute("SELECT kind, n FROM counts") if n}
    if whole and stored != dict(counts):
        yield f"{store.path}: it counts {stored}, but holds {dict(counts)}"


def _check_pages(_: Store, db: apsw.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"{db.filename}: {line}"


def _check_gone(_: Store, db: apsw.Connection) -> Iterator[str]:
    for *fields, digest in db.execute("SELECT * FROM gone"):
        if digest_of(*fields) != digest:
            yield f"{db.filename}: what is kept of the removed event {fields[0]} is damaged"


def _check_offsets(_: Store, db: apsw.Connection) -> Iterator[str]:
    """Check that offsets have no gaps, from where ids are forgotten; what is trimmed may stay."""
    offsets = "SELECT offset FROM events WHERE offset > ?1 UNION ALL "
    offsets += "SELECT offset FROM gone WHERE offset > ?1 ORDER BY offset"
    trimmed, before = db.execute("SELECT trimmed, forgot FROM state").get
    last = db.execute(LAST).get
    if not before <= trimmed <= last:
        yield f"{db.filename}: it says that it was trimmed up to {trimmed}, and it was not"
    for (offset,) in (*db.execute(offsets, (before,)), (last + 1,)):
        if offset != before + 1:
            gap = f"{before + 1} to {offset - 1} are missing" if offset > before else "repeat"
            yield f"{db.filename}: offsets {gap} (at {offset})"
        before = offset
