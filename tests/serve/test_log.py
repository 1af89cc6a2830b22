import functools
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_crash import Disk, after_power_loss

import lifelong.serve.store as store_module
from lifelong.core.errors import LogError
from lifelong.serve.events import KINDS, Event, Log
from lifelong.serve.log import Conflict, InvalidEvent, SQLiteLog
from lifelong.serve.records import event_of, row_of

SCRIPT = Path(__file__).with_name("log_crash.py")


def start(mode, folder, writer="w"):
    command = [sys.executable, str(SCRIPT), mode, str(folder), writer]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def prediction(id, subject=None, x=(1.0, 2.0)):
    data = {"x": list(x), "version": 1, "output": [0.5], "propensity": None}
    return Event("prediction", id, 5.5, data, task=2, subject=subject, source="key")


def label(id, about, y=3):
    return Event("label", id, 6.0, {"y": y}, about=about)


def ids(log, after=0):
    return {event.id: event.offset for event in log.read(after, 1_000_000)}


@pytest.fixture
def log(tmp_path):
    with SQLiteLog(tmp_path / "log", write=True) as log:
        yield log


# What is put in comes out


def test_events_come_back_whole_and_in_order(log):
    protocol: Log = log
    assert protocol.last == 0
    assert protocol.read(0, 10) == []
    sent = [prediction("p", "ann"), label("l", "p"), Event("tick", "t", 7.0, {})]
    assert protocol.append(sent) == [1, 2, 3]
    got = protocol.read(0, 10)
    assert [event.offset for event in got] == [1, 2, 3]
    for event, back in zip(sent, got, strict=True):
        for field in ("kind", "id", "time", "data", "about", "task", "subject", "source"):
            assert getattr(event, field) == getattr(back, field)
    assert protocol.read(1, 1) == got[1:2]
    assert protocol.find("l") == got[1]
    assert protocol.find("nothing") is None
    assert protocol.last == 3
    assert log.counts() == dict.fromkeys(KINDS, 0) | {"prediction": 1, "label": 1, "tick": 1}
    assert log.verify() == []
    with pytest.raises(ValueError, match="-1"):
        log.read(0, -1)


def test_only_the_first_label_counts(log):
    log.append([prediction("p"), label("l-1", "p", 1), label("l-2", "p", 2)])
    log.append([label("l-3", "p", 3), Event("example", "e", 0.0, {}, about="q")])
    assert log.label_of("p").id == "l-1"
    assert log.label_of("q") is None


def test_sending_again_adds_nothing(log):
    events = [label("a", "p"), label("b", "p"), label("a", "p")]
    assert log.append(events) == [1, 2, 1]
    again = Event("label", "b", 99.0, {"y": 3}, about="p", source="another key")
    assert log.append([again, label("c", "p")]) == [2, 3]
    assert log.find("b").time == 6.0
    assert log.verify() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "example"), ("data", {"y": 4}), ("about", "q"), ("task", 1), ("subject", "bob")],
)
def test_an_id_with_another_content_is_refused_and_nothing_is_written(log, field, value):
    fields = {"kind": "label", "id": "a", "time": 0.0, "data": {"y": 3}, "about": "p"}
    log.append([Event(**fields)])
    with pytest.raises(Conflict, match=f"'a'.*offset 1.*another {field}"):
        log.append([label("b", "p"), Event(**(fields | {field: value})), label("c", "p")])
    assert ids(log) == {"a": 1}
    assert log.append([label("b", "p")]) == [2]
    with pytest.raises(Conflict, match="'d'"):
        log.append([label("d", "p", 1), label("d", "p", 2)])
    assert log.last == 2
    assert log.verify() == []


def test_each_event_of_a_group_stands_for_itself(log):
    log.append([label("a", "p")])
    got = log.append_each([label("b", "p"), label("a", "q"), label("c", None), label("d", "p")])
    assert (got[0], got[3]) == (2, 3)
    assert isinstance(got[1], Conflict)
    assert isinstance(got[2], InvalidEvent)
    assert ids(log) == {"a": 1, "b": 2, "d": 3}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda part: st.lists(part, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), part, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), JSON, max_size=3))
def test_finite_json_comes_back_as_it_was(data):
    row = row_of(Event("example", "e", 0.0, data))
    assert event_of((*row, 1)).data == data


class Odd:
    pass


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"x": [1.0, math.nan]}, r"data\['x'\]\[1\] is nan"),
        ({"x": {"deep": -math.inf}}, r"data\['x'\]\['deep'\] is -inf"),
        ({"x": (1.0, 2.0)}, r"\(1.0, 2.0\)"),
        ({"x": Odd()}, "Odd"),
        ({"x": b"bytes"}, "bytes"),
        ({1: 2}, "str"),
        ({"x": "\ud800"}, "surrogates"),
        ({"x": functools.reduce(lambda deep, _: [deep], range(100_000), [])}, "recursion"),
        ([1], "list"),
    ],
)
def test_data_that_is_not_finite_json_is_refused_before_anything_is_written(log, data, named):
    with pytest.raises(InvalidEvent, match=named) as caught:
        log.append([label("good", "p"), Event("example", "bad", 0.0, data)])
    assert "'bad'" in str(caught.value)
    assert isinstance(caught.value, LogError | ValueError)
    assert log.last == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "lable"}, "lable.*known: prediction, label"),
        ({"id": ""}, "no id"),
        ({"id": 5}, "text"),
        ({"subject": "\udfff"}, "text"),
        ({"about": None}, "about nothing"),
        ({"task": 2**63}, "task"),
        ({"task": True}, "task"),
        ({"time": math.inf}, "time"),
        ({"time": "now"}, "time"),
        ({"time": 10**400}, "time"),
        ({"source": 0}, "text"),
    ],
)
def test_an_event_that_is_none_is_refused(log, fields, named):
    fields = {"kind": "label", "id": "a", "time": 0.0, "data": {}, "about": "p"} | fields
    with pytest.raises(InvalidEvent, match=named):
        log.append([Event(**fields)])
    assert log.last == 0


# One writer, many readers


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    holder = start("hold", tmp_path)
    assert holder.stdout.readline() == "1 w\n"
    with pytest.raises(LogError, match=f"process {holder.pid} writes the log in {tmp_path}"):
        SQLiteLog(tmp_path, write=True)
    with SQLiteLog(tmp_path) as reader:
        assert ids(reader) == {"w": 1}
        with pytest.raises(LogError, match="write=True"):
            reader.append([label("a", "p")])
    holder.kill()
    holder.communicate()
    with SQLiteLog(tmp_path, write=True) as log:
        assert log.append([label("a", "p")]) == [2]
        with pytest.raises(LogError, match=f"process {os.getpid()}"):
            SQLiteLog(tmp_path, write=True)


def test_there_is_nothing_to_read_before_there_is_a_log(tmp_path):
    with pytest.raises(LogError, match="no event log"):
        SQLiteLog(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "events.db").touch()
    with pytest.raises(LogError, match="only now being created"):
        SQLiteLog(tmp_path)


def test_a_reader_follows_a_process_that_writes(tmp_path):
    writer = start("append", tmp_path)
    writer.stdout.readline()
    seen: list[Event] = []
    with SQLiteLog(tmp_path) as reader:
        while len(seen) < 200:
            seen += reader.read(len(seen), 7)
    writer.kill()
    writer.communicate()
    assert [event.offset for event in seen] == list(range(1, len(seen) + 1))
    assert [event.id for event in seen] == [f"w-{i}" for i in range(len(seen))]


def test_threads_read_while_one_writes(log):
    problems: list[BaseException] = []
    done = threading.Event()

    def read():
        try:
            while not done.is_set():
                last = log.last
                assert len(log.read(0, 10_000)) >= last
                assert log.find(f"e-{last}") is not None or last == 0
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(1, 100):
        log.append([label(f"e-{i}", "p")])
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_closed_log_says_so(tmp_path):
    log = SQLiteLog(tmp_path, write=True)
    log.append([label("a", "p")])
    log.close()
    log.close()
    for use in (lambda: log.last, lambda: log.read(0, 1), lambda: log.append([label("b", "p")])):
        with pytest.raises(LogError, match="closed"):
            use()
    assert {path.name for path in tmp_path.iterdir()} == {"events.db", "tail", "writer.lock"}


def test_an_old_sqlite_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(LogError, match=r"3\.51\.2.*pip install"):
        SQLiteLog(tmp_path, write=True)
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.3")
    SQLiteLog(tmp_path, write=True).close()


def test_the_settings_that_durability_stands_on(log):
    db = log._store.writer
    assert db.pragma("journal_mode") == "wal"
    assert {name: db.pragma(name) for name in store_module._SETTINGS} == store_module._SETTINGS
    assert store_module._SETTINGS["synchronous"] == 2


# Erasing and dropping


def traces(folder, *needles):
    # In another process: opening the file here and closing it would drop SQLite's own locks.
    found = subprocess.run(
        ["grep", "-rlaF", *(f"-e{needle}" for needle in needles), str(folder)],
        capture_output=True,
        text=True,
    )
    assert found.returncode in (0, 1), found.stderr
    return found.stdout.split()


def with_two_subjects(log):
    for i in range(60):
        who = "ann" if i % 3 == 0 else "bob"
        mark = "ANNSECRET" if who == "ann" else "BOBSECRET"
        event = Event("prediction", f"{who}-p-{i}", 0.0, {"x": mark * 200}, subject=who)
        log.append([event, label(f"{who}-l-{i}", event.id, mark)])
    log.append([Event("erasure", "forget", 0.0, {}, subject="ann")])


def test_erasing_leaves_no_byte_and_no_way_back(log):
    with_two_subjects(log)
    before, last = ids(log), log.last
    assert (log.first_of("ann"), log.first_of("bob"), log.first_of("nobody")) == (1, 3, None)
    assert traces(log.folder, "ANNSECRET") != []
    assert log.erase("ann") == 40
    assert traces(log.folder, "ANNSECRET", "ann-p", "ann-l") == []
    kept = {id: offset for id, offset in before.items() if not id.startswith("ann")}
    assert ids(log) == kept
    assert "forget" in kept
    assert log.last == last
    assert log.counts()["prediction"] == 40
    assert log.find("ann-p-0") is None
    assert log.label_of("ann-p-0") is None
    again = Event("prediction", "ann-p-3", 0.0, {"x": "ANNSECRET"}, subject="ann")
    assert log.append([again, label("new", "q")]) == [before["ann-p-3"], last + 1]
    assert traces(log.folder, "ANNSECRET") == []
    assert log.first_of("ann") is None
    assert log.erase("ann") == 0
    assert log.erase("nobody") == 0
    assert log.verify() == []


def test_offsets_are_not_given_again_after_the_last_event_is_erased(tmp_path):
    with SQLiteLog(tmp_path, write=True) as log:
        log.append([prediction("a"), prediction("b", "ann")])
        log.erase("ann")
        assert log.last == 2
    with SQLiteLog(tmp_path, write=True) as log:
        assert log.append([prediction("c")]) == [3]
        assert [event.offset for event in log.read(0, 9)] == [1, 3]


def test_an_erasure_that_was_cut_off_is_completed_at_the_next_opening(tmp_path, monkeypatch):
    chance = random.Random(2)
    with SQLiteLog(tmp_path, write=True) as log:
        for _ in range(20):  # ids in no order, so that pages split and keep copies of moved cells
            who = [chance.choice(["ANNSECRET", "bob"]) for _ in range(50)]
            log.append([prediction(f"{chance.random()}-{name}", name) for name in who])
        with monkeypatch.context() as patch:
            patch.setattr(
                log._store, "scrub", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt())
            )
            with pytest.raises(KeyboardInterrupt):
                log.erase("ANNSECRET")
        kept = ids(log)
        assert all(id.endswith("bob") for id in kept)
    assert traces(tmp_path, "ANNSECRET") != []  # or else this test needs another order
    with SQLiteLog(tmp_path, write=True) as log:
        assert traces(tmp_path, "ANNSECRET") == []
        assert log._store.writer.execute("SELECT scrub FROM state").get == 0
        assert log.verify() == []
        assert ids(log) == kept


def test_an_erasure_waits_for_readers_and_says_if_one_stays(log, monkeypatch):
    with_two_subjects(log)
    log._store.writer.set_busy_timeout(50)
    monkeypatch.setattr(log._store, "_patience", 0.05)
    with log._store.reading() as db:
        db.execute("SELECT count(*) FROM events").fetchall()
        with pytest.raises(LogError, match="rewrite"):
            log.erase("ann")
    assert log.erase("ann") == 0
    assert traces(log.folder, "ANNSECRET") == []


def test_trimming_drops_the_old_and_keeps_their_ids_known(tmp_path):
    with SQLiteLog(tmp_path, write=True) as log:
        log.append([label(f"e-{i}", "p") for i in range(1, 2501)])
        assert log.trim(before_offset=2301) == 2300
        assert log.trimmed == 2300
        assert [event.offset for event in log.read(2300, 2)] == [2301, 2302]
        with pytest.raises(LogError, match=r"trimmed up to offset 2300.*from 2299"):
            log.read(2299, 1)
        assert log.append([label("e-7", "p"), label("new", "p")]) == [7, 2501]
        assert log.trim(0) == 0
        assert log.trim(10**9) == 201
        assert (log.trimmed, log.last) == (2501, 2501)
        assert log.counts()["label"] == 0
    with SQLiteLog(tmp_path, write=True) as log:
        assert log.append([label("newer", "p")]) == [2502]
        assert log.verify() == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 15), min_size=1, max_size=5)),
        st.tuples(st.just("erase"), st.integers(0, 2)),
        st.tuples(st.just("trim"), st.integers(0, 12)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_any_history_keeps_the_rules(steps):
    first: dict[str, int] = {}
    alive: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        log = SQLiteLog(folder, write=True)
        for step, value in steps:
            if step == "append":
                events = [prediction(f"e-{n}", f"s-{n % 3}") for n in value]
                for n in value:
                    if f"e-{n}" not in first:
                        first[f"e-{n}"] = alive[f"e-{n}"] = len(first) + 1
                assert log.append(events) == [first[f"e-{n}"] for n in value]
            elif step == "erase":
                gone = [id for id in alive if int(id[2:]) % 3 == value]
                assert log.erase(f"s-{value}") == len(gone)
                alive = {id: at for id, at in alive.items() if id not in gone}
            elif step == "trim":
                kept = {id: at for id, at in alive.items() if at >= value}
                assert log.trim(value) == len(alive) - len(kept)
                alive = kept
            else:
                log.close()
                log = SQLiteLog(folder, write=True)
            assert ids(log, log.trimmed) == alive
            assert log.last == len(first)
            assert log.counts()["prediction"] == len(alive)
        assert log.verify() == []
        log.close()


# Damage


def damaged(folder, *, events=40):
    with SQLiteLog(folder, write=True) as log:
        log.append([prediction(f"id-{i}", "ann", [i] * 30) for i in range(events)])
        log.append([prediction("gone", "bob")])
        log.erase("bob")
        return log.read(0, 1000)


def test_a_flipped_bit_is_named_with_its_offset(tmp_path):
    damaged(tmp_path)
    path = tmp_path / "events.db"
    content = bytearray(path.read_bytes())
    content[content.index(b"[17,17,17")] ^= 1
    path.write_bytes(content)
    with SQLiteLog(tmp_path, write=True) as log:
        assert len(log.read(0, 17)) == 17
        for use in (lambda: log.read(0, 99), lambda: log.find("id-17")):
            with pytest.raises(LogError, match="event at offset 18 is damaged"):
                use()
        [problem] = log.verify()
        assert "offset 18" in problem


def test_text_that_is_no_text_is_named_with_its_offset(tmp_path):
    damaged(tmp_path)
    path = tmp_path / "events.db"
    content = path.read_bytes()
    assert content.count(b"predictionid-5") == 1 or content.count(b"id-5prediction") == 1
    path.write_bytes(content.replace(b"id-5prediction", b"id-5\xff\xfeediction"))
    with SQLiteLog(tmp_path) as log:
        with pytest.raises(LogError, match="event at offset 6 is damaged"):
            log.read(0, 99)
        assert any("offset 6 " in problem for problem in log.verify())


def test_a_lost_row_is_noticed(tmp_path):
    damaged(tmp_path)
    with apsw.Connection(str(tmp_path / "events.db")) as db:
        db.execute("DELETE FROM events WHERE offset IN (7, 8)")
        db.execute("UPDATE gone SET kind = 'label'")
    with SQLiteLog(tmp_path) as log:
        problems = "\n".join(log.verify())
    assert "offsets 7 to 8 are missing" in problems
    assert "removed event 41 is damaged" in problems
    assert "it counts {'prediction': 40}, but holds {'prediction': 38}" in problems


@settings(max_examples=120, deadline=None)
@given(place=st.floats(0, 0.999999), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_anywhere_gives_a_log_error_or_is_named_or_harmless(place, bit, cut):
    content, events = intact()
    at = int(place * len(content))
    with tempfile.TemporaryDirectory(dir=in_memory()) as name:
        broken = bytearray(content)
        broken[at] ^= 1 << bit
        (Path(name) / "events.db").write_bytes(broken[:at] if cut else broken)
        try:
            with SQLiteLog(name) as log:
                problems = log.verify()
                try:
                    read = log.read(0, 1000)
                except LogError:
                    assert problems
                    raise
        except LogError:
            return
        assert problems or read == events


def in_memory():
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@functools.cache
def intact():
    with tempfile.TemporaryDirectory() as folder:
        events = damaged(Path(folder))
        return (Path(folder) / "events.db").read_bytes(), events


@pytest.mark.parametrize("content", [b"no database" * 1000, b"\0" * 8192], ids=["text", "zeros"])
def test_another_file_is_not_a_log(tmp_path, content):
    (tmp_path / "events.db").write_bytes(content)
    for write in (False, True):
        with pytest.raises(LogError, match=r"events\.db"):
            SQLiteLog(tmp_path, write=write)
    assert (tmp_path / "events.db").read_bytes() == content


def test_another_database_or_schema_is_not_touched(tmp_path):
    with sqlite3.connect(tmp_path / "events.db") as other:
        other.execute("CREATE TABLE mine(a)")
    other.close()
    with pytest.raises(LogError, match="not an event log"):
        SQLiteLog(tmp_path, write=True)
    SQLiteLog(tmp_path / "b", write=True).close()
    with apsw.Connection(str(tmp_path / "b" / "events.db")) as db:
        db.pragma("user_version", 1)
    with pytest.raises(LogError, match="schema 1; this version reads 2"):
        SQLiteLog(tmp_path / "b", write=True)


# Crashes


def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path):
    chance = random.Random(0)
    acknowledged: dict[str, int] = {}
    before: dict[str, int] = {}
    for loop in range(10):
        mode = ("append", "group")[loop % 2]
        writer = start(mode, tmp_path, f"{mode}{loop}")
        first = "".join(writer.stdout.readline() for _ in range(chance.randint(1, 60)))
        time.sleep(chance.random() * 0.02)
        writer.send_signal(signal.SIGKILL)
        said = (first + writer.stdout.read()).splitlines()
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL
        pairs = [(int(offset), id) for offset, id in (line.split() for line in said)]
        acknowledged |= {id: offset for offset, id in pairs}
        with SQLiteLog(tmp_path, write=True) as log:
            assert log.verify() == []
            events = log.read(0, 1_000_000)
        assert [event.offset for event in events] == list(range(1, len(events) + 1))
        there = {event.id: event.offset for event in events}
        assert len(there) == len(events)
        assert acknowledged.items() <= there.items()
        assert before.items() <= there.items()
        own = [event.id for event in events if event.id.startswith(f"{mode}{loop}-")]
        if mode == "append":
            assert own == [f"{mode}{loop}-{i}" for i in range(len(own))]
            assert 0 <= len(own) - len(pairs) <= 3  # the last call's, not yet said
        for thread in range(8 if mode == "group" else 0):
            prefix = f"{mode}{loop}-{thread}-"
            its = [id for id in own if id.startswith(prefix)]
            assert its == [f"{prefix}{i}" for i in range(len(its))]
        before = there


def test_what_a_killed_writer_left_is_synced_before_it_is_read(tmp_path, monkeypatch):
    holder = start("hold", tmp_path)
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    synced: list[str] = []
    monkeypatch.setattr(store_module, "_sync", lambda path: synced.append(path.name))
    with SQLiteLog(tmp_path) as reader:
        assert synced == ["events.db-wal"]
        assert ids(reader) == {"w": 1}


def a_life(folder, disk, monkeypatch, synchronous=2):
    """Append, erase, trim and reopen; note on the disk's list what was begun and acknowledged."""
    synced = store_module._sync

    def noting_sync(path):
        synced(path)
        disk.done.append(("sync", path.name) if path.suffix else ("folder", path.name))

    monkeypatch.setattr(store_module, "_sync", noting_sync)
    monkeypatch.setattr(store_module, "WAL_PAGES", 12)
    chance = random.Random(1)
    count = 0
    for opening in range(3):
        with SQLiteLog(folder, write=True) as log:
            log._store.writer.pragma("synchronous", synchronous)
            for _ in range(10):
                names = [f"e-{count + i}" for i in range(chance.randint(1, 4))]
                count += len(names)
                events = [secret(name) for name in names]
                offsets = log.append(events)
                disk.done.append(("there", "", dict(zip(names, offsets, strict=True))))
            if opening < 2:
                removed = [e.id for e in log.read(log.trimmed, 999) if e.subject == f"s-{opening}"]
                disk.done.append(("leaving", "", set(removed)))
                log.erase(f"s-{opening}")
                # Twice, so that a torn sector cannot make one of two others.
                secrets = [f"<{id}><{id}>".encode() for id in removed]
                disk.done.append(("gone", "", set(removed), secrets))
            removed = [event.id for event in log.read(log.trimmed, 999) if event.offset < 9]
            disk.done.append(("leaving", "", set(removed)))
            log.trim(9)
            disk.done.append(("gone", "", set(removed), []))


def secret(name):
    return prediction(name, f"s-{int(name[2:]) % 3}", [f"<{name}>" * 60])


def what_was_lost(folder, done, chance):
    """Recover a log after power was lost at the end of `done`, and list what it should not lack."""
    there: dict[str, int] = {}
    leaving: set[str] = set()
    gone: set[str] = set()
    secrets: list[bytes] = []
    for what, _, *details in done:
        if what == "there":
            there |= details[0]
        elif what == "leaving":
            leaving |= details[0]
        elif what == "gone":
            gone |= details[0]
            secrets += details[1]
    files = after_power_loss([entry for entry in done if entry[1]], chance)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    lost = [secret for secret in secrets for content in files.values() if secret in content]
    with SQLiteLog(folder, write=True) as log:
        lost += log.verify()
        found = ids(log, log.trimmed)
        lost += [id for id in there.keys() - leaving if found.get(id) != there[id]]
        lost += [id for id in gone if id in found]
        if not lost:
            assert log.append([secret(name) for name in there]) == list(there.values())
    return lost


def test_power_loss_at_any_moment_loses_nothing_acknowledged(tmp_path, monkeypatch):
    with Disk() as disk:
        a_life(tmp_path / "log", disk, monkeypatch)
    monkeypatch.undo()
    chance = random.Random(2)
    assert len(disk.done) > 300
    for end in chance.sample(range(len(disk.done) + 1), 80):
        for choices in (None, random.Random(end)):
            with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
                assert what_was_lost(Path(folder), disk.done[:end], choices) == [], end


def test_the_power_loss_shows_where_syncing_is_left_out(tmp_path, monkeypatch):
    with Disk() as disk:
        a_life(tmp_path / "log", disk, monkeypatch, synchronous=1)
    monkeypatch.undo()
    lost = 0
    for end in range(100, len(disk.done), 40):
        with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
            lost += bool(what_was_lost(Path(folder), disk.done[:end], None))
    assert lost > 0


@pytest.mark.parametrize("room", [0, 5, 4_000, 9_999, 40_000])
def test_a_full_disk_keeps_what_was_there_and_goes_on_when_there_is_room(tmp_path, room):
    with Disk() as disk, SQLiteLog(tmp_path, write=True) as log:
        log.append([label(f"l-{i}", "p") for i in range(20)])
        disk.room = room
        added = 20
        refused = None
        while refused is None:
            group = [prediction(f"e-{added + i}", "ann", [0.5] * 900) for i in range(2)]
            try:
                assert log.append(group) == [added + 1, added + 2]
                added += 2
            except LogError as error:
                refused = error
        assert "full; make room" in str(refused)
        assert log.last == added
        assert len(log.read(0, 999)) == added
        with pytest.raises(LogError, match="full"):
            log.erase("ann")
        disk.room = float("inf")
        assert log.append(group)[0] == added + 1
        assert log.erase("ann") + 20 >= added - 20
        assert log.verify() == []


def test_a_limit_of_the_files_size_is_a_full_disk(tmp_path):
    writer = start("limit", tmp_path)
    said = writer.communicate(timeout=60)[0].splitlines()
    assert writer.returncode == 0
    [full] = [place for place, line in enumerate(said) if line.startswith("full cannot append")]
    lines = [line.split() for line in (*said[:full], *said[full + 1 :])]
    with SQLiteLog(tmp_path) as log:
        assert ids(log) == {id: int(offset) for offset, id in lines}
        assert log.verify() == []


def test_events_of_a_kind_and_what_is_gone_are_found(log):
    log.append([prediction("p", "ann"), Event("tick", "t", 0.0, {}), label("l", "p")])
    log.append([Event("erasure", "x", 0.0, {"first": 1}, subject="ann"), prediction("q")])
    log.erase("ann")
    assert [event.id for event in log.of_kinds("erasure", "tick")] == ["t", "x"]
    assert log.of_kinds("label") == []
    assert [log.erased(*span) for span in ((1, 5), (1, 1), (2, 2), (3, 5))] == [2, 1, 0, 1]


def test_offsets_follow_the_file_whatever_was_raised_before(tmp_path, monkeypatch):
    with SQLiteLog(tmp_path, write=True) as log:
        assert log.append([prediction("a", "s")]) == [1]
        tail = log._store._tail

        def stopped(offset):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tail, "write", stopped)
            with pytest.raises(KeyboardInterrupt):
                log.append([prediction("b", "s")])  # which is on disk
        log._store.given = 1  # and had this not been noted
        assert log.append([prediction("c", "s")]) == [3]
        assert log.append([prediction("b", "s")]) == [2]
        assert log.verify() == []


def test_a_long_wal_is_brought_into_the_file_but_not_by_who_has_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "WAL_PAGES", 8)
    with SQLiteLog(tmp_path, write=True) as log:
        store, spilled = log._store, []
        spill = store._spill
        monkeypatch.setattr(store, "_spill", lambda: spilled.append(store._wal) or spill())
        for n in range(40):
            with log.at_once() as free:
                assert free == (store._wal < 8)
            log.append([prediction(f"p-{n}", "s", [float(n)] * 50)])
        assert max(spilled) >= 8
        assert sum(pages >= 8 for pages in spilled) < 40
        assert (tmp_path / "events.db-wal").stat().st_size < 40 * 3 * 4200
