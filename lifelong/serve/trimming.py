"""Removing events from a log: of a subject at once, and the oldest in small parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from lifelong.serve.records import digest_of, key_of
from lifelong.serve.store import LAST, Store

DECISIONS = 1_000
"""Decisions kept whatever their age, so that one sent again is known."""
_LABELS = "SELECT offset FROM events WHERE about = ? AND kind = 'label' ORDER BY offset"


_WHOLE = """
    SELECT offset, id FROM events WHERE kind = 'example' AND subject = ?1 AND offset <= ?2 UNION
    SELECT p.offset, p.id FROM events p JOIN events l ON l.about = p.id AND l.kind = 'label'
    WHERE p.kind = 'prediction' AND p.subject = ?1 AND max(p.offset, l.offset) <= ?2 UNION
    SELECT l.offset, p.id FROM events l JOIN events p ON p.id = l.about AND p.kind = 'prediction'
    WHERE l.kind = 'label' AND l.subject = ?1 AND max(p.offset, l.offset) <= ?2
"""
"""Rows of a subject that were whole before the log's beginning, as far as they are still there."""


class Traces(NamedTuple):
    """What was learned from a subject's events that have been trimmed since.

    Attributes:
        rows: the keys of those rows, as in `lifelong.serve.records.key_of`.
        first: the offset of the first of them; None where there is none.
        unknown: nothing is known any more of events up to this offset.
    """

    rows: list[int]
    first: int | None
    unknown: int

    @property
    def none(self) -> bool:
        """Whether the learner has certainly learned nothing that can no longer be taken out."""
        return not self.rows and not self.unknown


def key(store: Store, text: str, size: int = 16) -> bytes:
    """Return the keyed hash by which an id or a subject is known after its event is gone."""
    return hashlib.blake2b(text.encode(), digest_size=size, key=store.salt).digest()


def remove(
    store: Store,
    db: apsw.Connection,
    offsets: Iterable[int],
    learned: Mapping[int, int] | None = None,
) -> int:
    """Remove events, keep what makes them known when they are sent again; return how many.

    Args:
        learned: of events that are trimmed, the key of the row that was learned from them, by
            offset. None where a subject is erased: nothing must lead back to it then.
    """
    removed = 0
    store.gone = True
    for offset in offsets:
        query = "DELETE FROM events WHERE offset = ? RETURNING id, kind, subject"
        id, kind, subject = db.execute(query, (offset,)).get
        row = None if learned is None or subject is None else learned.get(offset)
        trace = None if row is None else key(store, subject, 8)
        gone = (offset, kind, key(store, id), int(learned is None), trace, row)
        db.execute("INSERT INTO gone VALUES(?, ?, ?, ?, ?, ?, ?)", (*gone, digest_of(*gone)))
        removed += 1
    return removed


def traces(store: Store, subject: str) -> Traces:
    """Tell what was learned from this subject's events that have been trimmed.

    Those before the log's beginning that are still to be removed count, too: no learner goes back
    behind them any more.
    """
    query = "SELECT offset, row FROM gone WHERE subject = ?"
    with store.reading() as db:
        found = dict[int, int](db.execute(query, (key(store, subject, 8),)))
        trimmed, forgot = db.execute("SELECT trimmed, forgot FROM state").get
        found |= {offset: key_of(id) for offset, id in db.execute(_WHOLE, (subject, trimmed))}
        rows = dict.fromkeys(found[offset] for offset in sorted(found))
        return Traces(list(rows), min(found, default=None), forgot)


def forget_traces(store: Store, db: apsw.Connection, subject: str) -> None:
    """Let nothing lead from a subject to its trimmed events, whose ids stay known for ever."""
    query = "SELECT offset, kind, key FROM gone WHERE subject = ?"
    for found in db.execute(query, (key(store, subject, 8),)).fetchall():
        gone = (*found, 1, None, None)
        db.execute("REPLACE INTO gone VALUES(?, ?, ?, ?, ?, ?, ?)", (*gone, digest_of(*gone)))


def mark(store: Store, upto: int, passed: int | None = None) -> bool:
    """Say that the log begins after an offset; False while something may have to go back.

    What was decided to be forgotten, and no checkpoint has passed yet, needs what came before. Of
    other decisions, such as verdicts, there is one every few seconds: they hold nothing back.

    Args:
        passed: the offset of the trainer's newest checkpoint; None where there is no trainer.
    """
    decided = "SELECT kind, data FROM events WHERE kind IN ('decision', 'erasure') AND offset > ?"
    with store.writing("trim") as db:
        if passed is not None:
            for kind, data in db.execute(decided, (passed,)):
                if kind == "erasure" or "discard_after" in msgspec.json.decode(data):
                    return False
        db.execute(
            "UPDATE state SET trimmed = max(trimmed, min(?, ?))", (upto, db.execute(LAST).get)
        )
    return True


def sweep(store: Store, after: int, limit: int) -> tuple[int | None, int]:
    """Look at up to `limit` events between an offset and the log's beginning; remove what can go.

    A row that becomes whole after the beginning is still to be learned by whoever starts there:
    its prediction stays, or its label where that came first. A prediction goes together with its
    labels, so that a second label is never taken for the first. The newest decisions stay.

    Returns:
        Where to go on, None at the end; and how many events were removed.
    """
    query = "SELECT offset, kind, id FROM events WHERE offset > ? AND offset <= ? ORDER BY offset"
    with store.writing("trim") as db:
        trimmed = db.execute("SELECT trimmed FROM state").get
        found: list[Any] = db.execute(f"{query} LIMIT ?", (after, trimmed, limit)).fetchall()
        oldest = _oldest_decision(db)
        removed = 0
        for offset, kind, id in found:
            if kind == "decision" and offset >= oldest:
                continue
            leaving = _with_it(db, offset, kind, id, trimmed)
            whole = kind == "example" or len(leaving) > 1
            learned = dict.fromkeys(leaving, key_of(id)) if whole else {}
            removed += remove(store, db, leaving, learned)
        if removed:
            db.execute("UPDATE state SET stale = 1")
    return (found[-1][0] if len(found) == limit else None), removed


def forget_ids(store: Store, remember: int, limit: int) -> bool:
    """Forget the ids of trimmed events but for the last ones; False if there are none left.

    Ids of erased events stay known.
    """
    with store.writing("trim") as db:
        upto = db.execute("SELECT trimmed FROM state").get - remember
        db.execute("UPDATE state SET forgot = max(forgot, ?)", (upto,))
        old = "SELECT offset FROM gone WHERE offset <= ? AND erased = 0 ORDER BY offset LIMIT ?"
        db.execute(f"DELETE FROM gone WHERE offset IN ({old})", (upto, limit))
        return bool(db.changes() >= limit)


def _with_it(db: apsw.Connection, offset: int, kind: str, id: str, trimmed: int) -> Sequence[int]:
    """Say which events leave with one: nothing, itself, or a prediction and its labels."""
    if kind == "prediction":
        labels = [label for (label,) in db.execute(_LABELS, (id,))]
        if labels and labels[0] > trimmed:
            return []
        return [offset, *(label for label in labels if label <= trimmed)]
    if kind == "label":
        own = "SELECT 1 FROM events p JOIN events l ON p.id = l.about WHERE l.offset = ?"
        gone = db.execute("SELECT 1 FROM events WHERE offset = ?", (offset,)).get is None
        if gone or db.execute(f"{own} AND p.kind = 'prediction'", (offset,)).get:
            return []
    return [offset]


def _oldest_decision(db: apsw.Connection) -> int:
    query = "SELECT offset FROM events WHERE kind IN ('decision', 'erasure') AND kind = 'decision'"
    query += " ORDER BY offset DESC LIMIT 1 OFFSET ?"
    found: int | None = db.execute(query, (DECISIONS - 1,)).get
    return found or 0
