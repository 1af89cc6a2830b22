import random
import sqlite3
import threading

import apsw
import pytest
from test_log import traces

from lifelong.core.errors import LogError
from lifelong.serve import store as store_module
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog
from lifelong.serve.scrubbing import Pages, unused


def event(id, subject, size=1):
    return Event("prediction", id, 0.0, {"x": subject * size}, subject=subject)


def filled(log, rows, chance):
    """Ids in no order and rows of all sizes, so that pages split, merge and overflow."""
    for _ in range(rows // 50):
        who = [chance.choice(["ANNSECRET", "BOBSECRET", "carl"]) for _ in range(50)]
        sizes = [chance.choice([1, 3, 17, 40, 900]) for _ in who]
        log.append([event(f"{chance.random()}-{w}", w, s) for w, s in zip(who, sizes, strict=True)])


def whole(log):
    return log._store.writer.execute("PRAGMA integrity_check").get


@pytest.mark.parametrize("seed", range(4))
def test_no_byte_stays_and_no_row_changes(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(store_module, "SCRUBBED", 7)
    chance = random.Random(seed)
    with SQLiteLog(tmp_path, write=True) as log, SQLiteLog(tmp_path) as reader:
        filled(log, 800, chance)
        for subject, other in (("ANNSECRET", "BOBSECRET"), ("BOBSECRET", "nobody")):
            log.erase(subject)
            assert traces(tmp_path, subject) == []
            assert whole(log) == "ok"
            assert log.verify() == []
            left = {e.subject for e in reader.read(0, 10**6)}
            assert left == {"carl", other} - {"nobody"}
            filled(log, 100, chance)  # what it had in memory does not come back
            log._store.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            log.erase(subject)
            assert traces(tmp_path, subject) == []
        assert whole(log) == "ok"


def test_others_append_while_a_file_is_scrubbed(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SCRUBBED", 16)
    with SQLiteLog(tmp_path, write=True) as log:
        filled(log, 600, random.Random(1))
        last, steps, waits = log.last, [], []
        scrub_some = log._store._scrub_some
        monkeypatch.setattr(
            log._store, "_scrub_some", lambda page: steps.append(page) or scrub_some(page)
        )
        scrubbing = threading.Thread(target=log.erase, args=("ANNSECRET",))
        scrubbing.start()
        while scrubbing.is_alive():
            log.append([event(f"new-{random.random()}", "carl", 5)])
            waits.append(len(steps))
        scrubbing.join()
        assert len(set(waits)) > 3  # in between, not after
        assert log.last == last + len(waits)
        assert traces(tmp_path, "ANNSECRET") == []
        assert (whole(log), log.verify()) == ("ok", [])


def test_more_that_is_removed_meanwhile_is_not_taken_for_done(tmp_path, monkeypatch):
    with SQLiteLog(tmp_path, write=True) as log:
        filled(log, 100, random.Random(2))
        log.trim(51)
        scrub_some = log._store._scrub_some

        def meanwhile(page):
            log.trim(81)
            log._store.writer.execute("UPDATE state SET scrub = scrub + 1")
            return scrub_some(page)

        monkeypatch.setattr(log._store, "_scrub_some", meanwhile)
        log.rewrite()
        monkeypatch.undo()
        assert log.rewritten is not None
        assert log._store.writer.execute("SELECT scrub > 0 FROM state").get == 1
    with SQLiteLog(tmp_path, write=True) as log:  # and completed
        assert log._store.writer.execute("SELECT scrub FROM state").get == 0


def test_what_is_unused_is_all_that_no_cell_needs(tmp_path):
    """Against SQLite's own account of each page."""
    with SQLiteLog(tmp_path, write=True) as log:
        filled(log, 600, random.Random(3))
        log._store.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        pages, seen = Pages(log._store.writer), set()
        accounts = log._store.writer.execute(
            "SELECT pageno, unused, pagetype FROM dbstat WHERE pagetype != 'overflow'"
        ).fetchall()
        for number, free, _ in accounts:
            if number == 1:
                continue
            assert pages.is_tree(number), number
            page = pages.read(number)
            blocks = 0
            at = int.from_bytes(page[1:3], "big")
            while at:
                at, blocks = int.from_bytes(page[at : at + 2], "big"), blocks + 1
            assert sum(end - start for start, end in unused(page)) == free - 4 * blocks
            seen.add((page[0], page[7] > 0, blocks > 0))
        trees = {number for number, _, _ in accounts}
        others = set(range(2, pages.count + 1)) - trees
        assert not any(pages.is_tree(number) for number in others)
        assert {kind for kind, _, _ in seen} == {13, 10, 5, 2}
        assert {(fragments, blocks) for _, fragments, blocks in seen} >= {(False, False)}


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [(1, 4000, "free blocks overlap"), (5, 8, "cells overlap"), (7, 9 << 8, "do not fill it")],
)
def test_a_page_that_is_damaged_is_named_and_left(place, value, told):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t(x)")
    db.executemany("INSERT INTO t VALUES(?)", [("x" * n,) for n in range(1, 60)])
    page = bytearray(db.serialize()[4096:8192])
    db.close()
    assert unused(page)
    page[4000:4004] = (4000).to_bytes(2, "big") + (8).to_bytes(2, "big")
    page[place : place + 2] = value.to_bytes(2, "big")
    with pytest.raises(LogError, match=told):
        unused(page)
