import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.core.errors import AuditError
from lifelong.serve.audit import START, Audit, pseudonym, verify

ACTIONS = ["promote", "refuse", "rollback", "erase", "start"]


@pytest.fixture
def path(tmp_path):
    with Audit(tmp_path / "audit.jsonl") as audit:
        for n, action in enumerate(ACTIONS, start=1):
            audit.append(action, "gate", {"version": n, "why": "accuracy 0.9"})
    return tmp_path / "audit.jsonl"


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def edited(path, change):
    found = lines(path)
    change(found)
    path.write_bytes(b"".join(found))
    return verify(path)


def rehashed(line, **changes):
    """Forge a line that agrees with itself."""
    entry = {**json.loads(line), **changes}
    del entry["hash"]
    text = json.dumps(entry, separators=(",", ":")) + "\n"
    entry["hash"] = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(entry, separators=(",", ":")) + "\n").encode()


def test_a_chain_holds_and_is_gone_on_with(path):
    assert verify(path) == []
    with Audit(path) as audit:
        head = audit.head()
        assert head == (5, json.loads(lines(path)[-1])["hash"])
        new = audit.append("promote", "ann's key", {"version": 6, "nested": {"a": [1, None, "é"]}})
        assert audit.head() == (6, new)
        entries = audit.entries()
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[0]["previous"] == START
    assert all(b["previous"] == a["hash"] for a, b in itertools.pairwise(entries))
    assert entries[-1]["details"] == {"version": 6, "nested": {"a": [1, None, "é"]}}
    assert verify(path, head) == verify(path, (6, new)) == []


def test_pages_of_entries(path):
    with Audit(path) as audit:
        assert [entry["n"] for entry in audit.entries(after=1, limit=2)] == [2, 3]
        assert [entry["n"] for entry in audit.entries(after=4)] == [5]
        assert audit.entries(after=9) == audit.entries(limit=0) == []
        with pytest.raises(ValueError, match="after=-1"):
            audit.entries(after=-1)


def test_an_empty_chain(tmp_path):
    with Audit(tmp_path / "a") as audit:
        assert audit.head() == (0, START)
        assert audit.entries() == []
    assert verify(tmp_path / "a", (0, START)) == []


def test_an_altered_line_is_named(path):
    def alter(found):
        found[2] = found[2].replace(b"0.9", b"0.8")

    assert edited(path, alter) == ["line 3 was altered"]
    with pytest.raises(AuditError, match="line 3"):
        Audit(path)


def test_an_altered_line_with_a_new_hash_breaks_the_next(path):
    def alter(found):
        found[2] = rehashed(found[2], actor="somebody else")

    assert edited(path, alter) == ["line 4 does not follow line 3: one was replaced"]


def test_a_removed_line_is_named(path):
    problems = edited(path, lambda found: found.pop(1))
    assert problems == ["line 2 holds entry 3 after entry 1: entry 2 was removed"]


def test_reordered_lines_are_named(path):
    problems = edited(path, lambda found: found.insert(1, found.pop(2)))
    assert problems[0] == "line 2 holds entry 3 after entry 1: lines were reordered"


def test_an_inserted_line_is_named(path):
    assert edited(path, lambda found: found.insert(3, found[0]))[0] == (
        "line 4 holds entry 1 after entry 3: it was inserted, or lines were reordered"
    )


def test_whitespace_is_an_alteration_too(path):
    assert edited(path, lambda found: found.insert(2, b"\n"))[0] == "line 3 was altered"


def test_only_an_anchored_head_shows_what_was_cut_or_written_anew(path, tmp_path):
    with Audit(path) as audit:
        head = audit.head()
    path.write_bytes(b"".join(lines(path)[:-2]))
    assert verify(path) == []
    assert verify(path, head) == ["entries 4 to 5 were cut off the end"]
    with Audit(tmp_path / "new") as audit:
        for _ in range(5):
            audit.append("promote", "gate", {})
    assert verify(tmp_path / "new") == []
    assert "written anew" in verify(tmp_path / "new", head)[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory, place, flip):
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with Audit(path) as audit:
        for n in range(4):
            audit.append("promote", "gate", {"version": n})
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= flip
    path.write_bytes(data)
    line = bytes(data[:place]).count(b"\n") + 1
    problems = verify(path)
    assert problems
    assert problems[0].startswith((f"line {line} ", f"line {line + 1} "))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 7]))
def test_a_cut_at_any_byte_loses_nothing_that_was_whole(tmp_path_factory, cut, zeros):
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with Audit(path) as audit:
        for n in range(3):
            audit.append("promote", "gate", {"version": n})
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    torn = whole[start : start + 1 + cut % (len(whole) - start - 1)] + b"\0" * zeros
    path.write_bytes(whole[:start] + torn)
    assert verify(path) == ["line 3 was cut off by a crash"]
    with Audit(path) as audit:
        last = audit.entries()[-1]
        assert [entry["action"] for entry in audit.entries()] == ["promote"] * 2 + ["torn line"]
    assert path.with_name(last["details"]["file"]).read_bytes() == torn
    assert last["details"]["bytes"] == len(torn)
    assert verify(path) == []
    with Audit(path) as audit:  # it is recorded once
        assert audit.head()[0] == 3


def test_a_torn_line_is_recorded_also_if_a_crash_comes_in_between(path):
    path.with_name("audit.jsonl.torn-6-0123").write_bytes(b"half a li")
    with Audit(path) as audit:
        assert audit.entries(after=5)[0]["details"]["file"] == "audit.jsonl.torn-6-0123"


def test_a_broken_line_before_the_last_is_not_taken_for_a_crash(path):
    before = path.read_bytes().replace(b"rollback", b"roll\0ack")
    path.write_bytes(before)
    with pytest.raises(AuditError, match="line 3"):
        Audit(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("details", "error"), [({"a": float("nan")}, ValueError), ({"a": object()}, TypeError)]
)
def test_details_that_are_not_json_add_nothing(path, details, error):
    before = path.read_bytes()
    with Audit(path) as audit, pytest.raises(error):
        audit.append("promote", "gate", details)
    assert path.read_bytes() == before


def test_a_full_disk_adds_nothing_and_a_later_try_goes_on(path, monkeypatch):
    with Audit(path) as audit:
        before = path.read_bytes()
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[:20]))
            with pytest.raises(AuditError, match="not in the audit"):
                audit.append("promote", "gate", {})
        assert path.read_bytes() == before
        audit.append("promote", "gate", {})
    assert verify(path) == []


def test_a_file_cut_or_replaced_while_in_use(path):
    with Audit(path) as audit:
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])
        with pytest.raises(AuditError, match="was cut"):
            audit.append("promote", "gate", {})
        path.rename(path.with_name("moved"))
        path.write_bytes(whole)
        with pytest.raises(AuditError, match="moved or replaced"):
            audit.append("promote", "gate", {})
    with pytest.raises(AuditError, match="closed"):
        audit.append("promote", "gate", {})


def test_two_objects_and_many_threads_make_one_chain(path):
    with Audit(path) as first, Audit(path) as second:

        def work(audit):
            for n in range(25):
                audit.append("promote", "gate", {"n": n})

        threads = [threading.Thread(target=work, args=(a,)) for a in (first, first, second, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.head() == second.head()
        assert first.head()[0] == 105
    assert verify(path) == []


def test_what_a_killed_process_had_acknowledged_is_there(tmp_path):
    path = tmp_path / "audit.jsonl"
    chance = random.Random(0)
    acknowledged = []
    worker = textwrap.dedent(
        f"""
        import os
        from lifelong.serve.audit import Audit
        while os.read(0, 1):
            child = os.fork()
            if child == 0:
                with Audit({str(path)!r}) as audit:
                    while True:
                        line = audit.append("promote", "gate", dict(why="x" * 3000))
                        os.write(1, (line + chr(10)).encode())
            os.write(1, f"pid {{child}}\\n".encode())
            os.wait()
            os.write(1, b"dead\\n")
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(8):
            process.stdin.write("g")
            process.stdin.flush()
            left, child = chance.randrange(1, 30), None
            while (line := process.stdout.readline().strip()) != "dead":
                if line.startswith("pid"):
                    child = int(line.split()[1])
                else:
                    acknowledged.append(line)
                    left -= 1
                if child and left == 0:
                    os.kill(child, signal.SIGKILL)
        process.stdin.close()
    with Audit(path) as audit:
        found = audit.entries(limit=10_000)
    hashes = [entry["hash"] for entry in found if entry["action"] == "promote"]
    assert len(acknowledged) >= 8
    assert [one for one in hashes if one in set(acknowledged)] == acknowledged
    assert len(hashes) <= len(acknowledged) + 8
    assert verify(path) == []


def test_a_pseudonym_needs_its_salt():
    salt = os.urandom(16)
    assert pseudonym("ann", salt) == pseudonym("ann", salt)
    assert pseudonym("ann", salt) != pseudonym("bob", salt)
    assert pseudonym("ann", salt) != pseudonym("ann", os.urandom(16))
    assert "ann" not in pseudonym("ann", salt)
    with pytest.raises(ValueError, match="3 bytes"):
        pseudonym("ann", b"abc")


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(AuditError, match="no folder"):
        Audit(tmp_path / "no folder" / "audit.jsonl")
    with pytest.raises(AuditError, match="missing"):
        verify(tmp_path / "missing")
