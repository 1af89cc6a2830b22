"""Adding rows to a log: new ones together, and what was sent before found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from lifelong.serve.records import COLUMNS, Conflict, digest_of
from lifelong.serve.store import LAST, Store
from lifelong.serve.trimming import count
from lifelong.serve.trimming import key as key_of_gone

_ROWS = 64
"""Rows in one statement: a statement gives up the interpreter, which is dear while it is busy."""
_INSERT = f"INSERT INTO events({COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?)"


def insert(
    store: Store, db: apsw.Connection, rows: Sequence[tuple[Any, ...]]
) -> list[int | Conflict]:
    """Add rows: all in a few statements where all are new, else one by one."""
    last = db.execute(LAST).get
    ids = {row[1] for row in rows}
    if len(ids) < len(rows) or _any_known(store, db, ids):
        return _insert_each(store, db, rows, last)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        values: list[Any] = []
        for offset, row in enumerate(part, last + start + 1):
            values += (*row, offset, digest_of(*row, offset))
        db.execute(_INSERT + ", (?,?,?,?,?,?,?,?,?,?)" * (len(part) - 1), values)
    count(db, Counter(row[0] for row in rows))
    store.given = last + len(rows)
    return list(range(last + 1, last + 1 + len(rows)))


def _any_known(store: Store, db: apsw.Connection, ids: set[str]) -> bool:
    """Tell whether the log has, or had, an event of one of these ids."""
    keys: list[Any] = list(ids)
    for table, column in (("events", "id"), ("gone", "key")):
        if not db.execute(f"SELECT EXISTS(SELECT 1 FROM {table})").get:
            continue
        if table == "gone":
            keys = [key_of_gone(store, id) for id in ids]
        for start in range(0, len(keys), _ROWS):
            part = keys[start : start + _ROWS]
            marks = ",".join("?" * len(part))
            if db.execute(f"SELECT 1 FROM {table} WHERE {column} IN ({marks})", part).get:
                return True
    return False


def _insert_each(
    store: Store, db: apsw.Connection, rows: Iterable[tuple[Any, ...]], last: int
) -> list[int | Conflict]:
    results: list[int | Conflict] = []
    added: Counter[str] = Counter()
    for row in rows:
        known = db.execute("SELECT offset FROM events WHERE id = ?", (row[1],)).get
        gone, key = "SELECT offset FROM gone WHERE key = ?", key_of_gone(store, row[1])
        if known is None and (offset := db.execute(gone, (key,)).get) is not None:
            results.append(offset)
            continue
        if known is None:
            last += 1
            db.execute(_INSERT, (*row, last, digest_of(*row, last)))
            added[row[0]] += 1
        results.append(last if known is None else _again(store, db, row, known))
    count(db, added)
    store.given = last
    return results


def _again(store: Store, db: apsw.Connection, row: tuple[Any, ...], offset: int) -> int | Conflict:
    first = store.fetch(db, offset)
    fields = {"kind": 0, "data": 3, "about": 4, "task": 5, "subject": 6}
    other = [name for name, place in fields.items() if row[place] != first[place]]
    if not other:
        return offset
    return Conflict(
        f"event {row[1]!r} is in the log already, at offset {offset}, with another "
        f"{', '.join(other)}; give what is new an id of its own"
    )
