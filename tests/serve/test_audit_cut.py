"""An audit is bounded: its oldest lines are cut off where an entry says so, and nowhere else."""

import os
from types import SimpleNamespace

import pytest

from lifelong.core.errors import AuditError
from lifelong.serve import audit, receipts
from lifelong.serve.audit import Audit
from lifelong.serve.receipts import Receipts
from lifelong.serve.retention import Retention


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def filled(path, entries):
    with Audit(path) as held:
        for n in range(entries):
            held.append("promote", "gate", {"version": n})


def numbers(path):
    with Audit(path) as held:
        return [entry["n"] for entry in held.entries(limit=1000)]


def test_what_is_kept_holds_and_says_what_was_cut(path):
    filled(path, 30)
    with Audit(path) as held:
        tenth = held.entries(19, 1)[0]
        assert held.cut(10) == 20
        assert held.head()[0] == 31
        assert [entry["n"] for entry in held.entries(0, 3)] == [21, 22, 23]
        assert [entry["n"] for entry in held.entries(29, 9)] == [30, 31]
        held.append("promote", "gate", {"version": 99})
        assert held.cut(100) == 0
    assert audit.verify(path) == []
    assert numbers(path) == list(range(21, 33))  # opened anew
    gone = audit.cut(path)
    assert (gone["upto"], gone["hash"], gone["time"]) == (20, tenth["hash"], tenth["time"])
    with Audit(path) as held:
        assert held.cut(5) == 7
        assert held.cut(5) == 1  # the entry that says so
    assert audit.verify(path) == []
    assert audit.cut(path)["upto"] == 28


def test_lines_that_nobody_cut_are_missed(path):
    filled(path, 12)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[3:]))
    assert "entry 1 was removed" in audit.verify(path)[0]
    with pytest.raises(AuditError, match="no entry says that it was cut"):
        Audit(path)
    path.write_bytes(b"".join(lines))
    with Audit(path) as held:
        held.cut(6)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))  # one more than was said
    assert audit.verify(path) != []
    with pytest.raises(AuditError, match="no entry says that it was cut"):
        Audit(path)


def test_a_head_is_compared_as_far_as_the_chain_reaches(path):
    filled(path, 10)
    with Audit(path) as held:
        early = (3, held.entries(2, 1)[0]["hash"])
        edge = (6, held.entries(5, 1)[0]["hash"])
        late = held.head()
        held.cut(5)
    assert audit.verify(path, late) == []
    assert "was cut, so it cannot be compared" in audit.verify(path, early)[0]
    assert "cut, so it cannot" in audit.verify(path, (3, "0"))[0]
    assert audit.verify(path, edge) == []


def test_a_kill_between_the_entry_and_the_cut_leaves_a_whole_chain(path, monkeypatch):
    filled(path, 10)
    with Audit(path) as held, monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(AuditError):
            held.cut(5)
        assert held.head()[0] == 11
    assert audit.verify(path) == []
    assert audit.cut(path) is None
    with Audit(path) as held:
        assert held.cut(5) == 6
    assert audit.verify(path) == []
    assert numbers(path) == [7, 8, 9, 10, 11, 12]
    assert not list(path.parent.glob(".*.tmp"))


def test_another_process_that_has_the_file_open_is_told(path):
    filled(path, 10)
    with Audit(path) as held, Audit(path) as other:
        held.cut(5)
        with pytest.raises(AuditError, match="open it again"):
            other.append("promote", "gate", {})
        held.append("promote", "gate", {})


def test_what_others_need_of_the_entries_stays_known(path, tmp_path):
    held = Audit(path)
    made = Receipts(tmp_path / "erasures", held)
    for erasure in (7, 9, 11):
        made.accepted(erasure, f"user-{erasure}", [])
        made.removed(erasure, 1, until=erasure, who="key")
        made.retired(erasure, {})
        held.append("trim", "retention", {"to": 10 * erasure})
        held.cut(2)  # and what was carried is carried on
    (tmp_path / "audit.jsonl.torn-1-x").write_bytes(b"torn")
    held.close()
    with Audit(path) as held:
        held.cut(1)
        entries = held.head()[0]
    assert numbers(path)[-1] == entries  # the torn line is not told of again
    assert audit.trimmed(path) == 110
    assert receipts.verify(tmp_path / "erasures", path) == []
    gone = next(iter(sorted((tmp_path / "erasures").glob("*.json"))))
    content = gone.read_bytes()
    gone.unlink()
    assert "one is missing" in receipts.verify(tmp_path / "erasures", path)[0]
    gone.write_bytes(content.replace(b'"removed": 1', b'"removed": 2'))
    assert "was altered" in receipts.verify(tmp_path / "erasures", path)[0]


def test_retention_cuts_a_tenth_at_a_time(path, tmp_path):
    filled(path, 109)
    log = SimpleNamespace(
        sweep=lambda after, limit: (None, 0), forget_ids=lambda *_: False, rewritten=None, free=0,
        trimmed=0, last=0,
    )  # fmt: skip
    with Audit(path) as held:
        retention = Retention(log, tmp_path, held, decisions=100)
        for _ in range(4):
            retention.step()
        assert held.entries_kept == 109
        held.append("promote", "gate", {})
        held.append("promote", "gate", {})
        for _ in range(4):
            retention.step()
        assert held.entries_kept == 101
    assert audit.verify(path) == []
