import json
from pathlib import Path

import pytest

from lifelong.core.errors import AuditError
from lifelong.serve import audit
from lifelong.serve.audit import Audit
from lifelong.serve.receipts import Receipts, verify

LEARNED = {"checkpoint": 2, "weights": "a" * 64}
RETIRED = {"retired": [{"version": 2, "sha256": "b" * 64}], "served": {"version": 3}}


def receipts(tmp_path):
    return Receipts(tmp_path / "erasures", Audit(tmp_path / "audit.jsonl"))


def problems(tmp_path):
    return verify(tmp_path / "erasures", tmp_path / "audit.jsonl")


def complete(tmp_path, erasure=7, until=9):
    held = receipts(tmp_path)
    held.accepted(erasure, "ann", [4, 5, 2])
    held.removed(erasure, 3, until=until, who="key")
    assert held.learned(until, LEARNED) == [erasure]
    assert held.retired(until, RETIRED) == [erasure]
    return held


def test_a_receipt_goes_through_its_states_and_into_the_audit(tmp_path):
    held = receipts(tmp_path)
    assert held.get(7) is None
    held.accepted(7, "ann", [4, 5, 2])
    assert held.get(7)["state"] == "accepted"
    assert held.learned(99, LEARNED) == []  # the log has it still
    held.removed(7, 3, until=9, who="key")
    assert held.learned(8, LEARNED) == []  # the learner is not past it yet
    assert held.get(7)["state"] == "log removed"
    assert receipts(tmp_path).learned(9, LEARNED) == [7]  # by another process
    assert held.get(7)["state"] == "learner rebuilt"
    assert held.retired(9, RETIRED) == [7]
    done = held.get(7)
    assert done["state"] == "done"
    assert list(done["times"]) == [
        "accepted", "log removed", "learner rebuilt", "versions retired", "done",
    ]  # fmt: skip
    assert sorted(done["times"].values()) == list(done["times"].values())
    assert done["events"] == {"offsets": [[2, 2], [4, 5]], "removed": 3}
    assert (done["learner"], done["versions"]) == (LEARNED, RETIRED)
    entries = held.audit.entries()
    assert [entry["action"] for entry in entries] == ["erase", "erased"]
    assert entries[1]["details"] == {"erasure": 7, "sha256": done["sha256"]}
    assert done["audit"] == entries[1]["hash"]
    assert audit.verify(tmp_path / "audit.jsonl") == []
    assert problems(tmp_path) == []
    assert held.retired(99, RETIRED) == []  # once


def test_nobody_is_named(tmp_path):
    held = complete(tmp_path)
    told = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"ann" not in told
    assert held.get(7)["subject"] == held.name("ann") == receipts(tmp_path).name("ann")
    other = tmp_path / "other"
    other.mkdir()
    assert receipts(other).name("ann") != held.name("ann")  # each service has its salt
    assert (tmp_path / "erasures" / "salt").stat().st_mode & 0o077 == 0


def test_an_erasure_that_a_crash_cut_short_is_done_again(tmp_path):
    held = receipts(tmp_path)
    held.accepted(7, "ann", [2, 4])
    held = receipts(tmp_path)
    held.accepted(7, "ann", [])  # the log had been cleaned before the crash
    held.removed(7, 0, until=9, who="key")
    assert held.get(7)["events"]["offsets"] == [[2, 2], [4, 4]]
    held.removed(7, 0, until=9, who="key")
    assert held.get(7)["state"] == "log removed"


def test_an_altered_receipt_is_found(tmp_path):
    held = complete(tmp_path)
    path = tmp_path / "erasures" / "000000000007.json"
    receipt = json.loads(path.read_text())
    receipt["events"]["removed"] = 0
    path.write_text(json.dumps(receipt))
    assert problems(tmp_path) == [f"{path} was altered"]
    complete(tmp_path, erasure=17, until=19)
    other = json.loads((tmp_path / "erasures" / "000000000017.json").read_text())
    path.write_text(json.dumps(other))
    assert problems(tmp_path) == [f"{path} is not the receipt that the audit has"]
    path.write_text("{")
    with pytest.raises(AuditError, match="restore a backup"):
        held.get(7)


def test_a_damaged_salt_is_named(tmp_path):
    receipts(tmp_path)
    (tmp_path / "erasures" / "salt").write_bytes(b"short")
    with pytest.raises(AuditError, match="salt is damaged: 5 bytes"):
        receipts(tmp_path)


def test_rows_that_an_erasure_could_not_take_out_are_known_to_the_next(tmp_path):
    held = receipts(tmp_path)
    assert held.trimmed("ann") == 0
    facts = {"exact": False, "trimmed": 3, "unknown_until": 0}
    held.accepted(7, "ann", [], facts)
    assert held.get(7)["exact"] is False
    held.accepted(9, "bob", [4], {"exact": True, "trimmed": 0, "unknown_until": 0})
    again = receipts(tmp_path)
    assert (again.trimmed("ann"), again.trimmed("bob"), again.trimmed("carl")) == (3, 0, 0)


def several(tmp_path, many, keep):
    held = Receipts(tmp_path / "erasures", Audit(tmp_path / "audit.jsonl"), keep)
    for erasure in range(1, many + 1):
        facts = {"exact": False, "trimmed": erasure}
        held.accepted(erasure, f"user-{erasure}", [], facts)
        held.removed(erasure, 1, until=erasure, who="key")
        held.retired(erasure, RETIRED)
    return held


def test_old_receipts_share_a_file_and_are_found_there(tmp_path):
    held = several(tmp_path, 40, keep=10)
    files = sorted(path.stem for path in (tmp_path / "erasures").glob("*.json"))
    assert 10 <= len(files) <= 12
    assert files[-1] == "000000000040"
    assert [held.get(n)["erasure"] for n in (1, 20, 40)] == [1, 20, 40]
    assert held.get(41) is None
    assert [held.trimmed(f"user-{n}") for n in (1, 20, 40, 41)] == [1, 20, 40, 0]
    assert problems(tmp_path) == []
    assert held.retired(99, RETIRED) == []


def test_a_crash_while_receipts_are_moved_leaves_each_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:

        def killed(path):
            raise AuditError(f"killed before {path} is deleted")

        patch.setattr(Path, "unlink", killed)
        with pytest.raises(AuditError, match="killed"):
            several(tmp_path, 40, keep=10)
    assert (tmp_path / "erasures" / "folded.jsonl").exists()
    assert problems(tmp_path) == []
    held = Receipts(tmp_path / "erasures", Audit(tmp_path / "audit.jsonl"), 5)
    assert held.retired(99, RETIRED) == []
    assert len([one["erasure"] for one in held.folded]) == len({n["erasure"] for n in held.folded})
    assert problems(tmp_path) == []


@pytest.mark.parametrize("cut", [0, 100])
def test_an_old_receipt_that_was_altered_or_removed_is_found(tmp_path, cut):
    held = several(tmp_path, 40, keep=10)
    if cut:
        held.audit.cut(4)
    path = tmp_path / "erasures" / "folded.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    altered = lines[2].replace(b'"removed":1', b'"removed":2')
    path.write_bytes(b"".join([*lines[:2], altered, *lines[3:]]))
    assert problems(tmp_path) == [f"line 3 of {path} was altered"]
    path.write_bytes(b"".join(lines[1:]))
    assert "missing" in problems(tmp_path)[0]
    path.write_bytes(lines[0][:20])
    with pytest.raises(AuditError, match="restore a backup"):
        problems(tmp_path)


def test_a_receipt_that_the_audit_has_is_missed(tmp_path):
    complete(tmp_path)
    (tmp_path / "erasures" / "000000000007.json").unlink()
    assert "receipt of erasure 7" in problems(tmp_path)[0]
