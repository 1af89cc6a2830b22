"""Adding rows to a log: new ones together, and what was sent before found again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import apsw

from lifelong.serve.records import COLUMNS, Conflict, digest_of
from lifelong.serve.store import Store
from lifelong.serve.trimming import key as key_of_gone

_ROWS = 64
"""Rows in one statement: a statement gives up the interpreter, which is dear while it is busy."""
_INSERT = f"INSERT INTO events({COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?)"


def insert(
    store: Store, rows: Sequence[tuple[Any, ...]], together: bool = False
) -> list[int | Conflict]:
    """Add rows in one commit and give each its offset, or that of the first with its id.

    Where all are new that is one statement, or a few; else they are added one by one.

    Raises:
        Conflict: with `together`, where there is one; no row is added then.
    """
    ids = {row[1] for row in rows}
    if 0 < len(rows) <= _ROWS and len(ids) == len(rows):
        with store.adding() as db, contextlib.suppress(apsw.ConstraintError):  # an id is known
            if not store.gone or not _any_known(store, db, ids, ["gone"]):
                return _insert_all(store, db, rows)
    with store.writing("append") as db:
        if len(ids) == len(rows) and not _any_known(store, db, ids, ["events", "gone"]):
            return _insert_all(store, db, rows)
        results = _insert_each(store, db, rows)
        if together and (conflicts := [one for one in results if isinstance(one, Conflict)]):
            raise conflicts[0]
        return results


def _insert_all(
    store: Store, db: apsw.Connection, rows: Sequence[tuple[Any, ...]]
) -> list[int | Conflict]:
    first = store.given + 1
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        values: list[Any] = []
        for offset, row in enumerate(part, first + start):
            values += (*row, offset, digest_of(*row, offset))
        db.execute(_INSERT + ", (?,?,?,?,?,?,?,?,?,?)" * (len(part) - 1), values)
    store.given += len(rows)
    return list(range(first, first + len(rows)))


def _any_known(
    store: Store, db: apsw.Connection, ids: set[str], tables: Sequence[Literal["events", "gone"]]
) -> bool:
    """Tell whether the log has, or had, an event of one of these ids."""
    for table in tables:
        column, keys = "id", list[Any](ids)
        if table == "gone":
            column, keys = "key", [key_of_gone(store, id) for id in ids]
        for start in range(0, len(keys), _ROWS):
            part = keys[start : start + _ROWS]
            marks = ",".join("?" * len(part))
            if db.execute(f"SELECT 1 FROM {table} WHERE {column} IN ({marks})", part).get:
                return True
    return False


def _insert_each(
    store: Store, db: apsw.Connection, rows: Iterable[tuple[Any, ...]]
) -> list[int | Conflict]:
    results: list[int | Conflict] = []
    for row in rows:
        known = db.execute("SELECT offset FROM events WHERE id = ?", (row[1],)).get
        gone, key = "SELECT offset FROM gone WHERE key = ?", key_of_gone(store, row[1])
        if known is None and (offset := db.execute(gone, (key,)).get) is not None:
            results.append(offset)
            continue
        if known is None:
            store.given += 1
            db.execute(_INSERT, (*row, store.given, digest_of(*row, store.given)))
        results.append(store.given if known is None else _again(store, db, row, known))
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
