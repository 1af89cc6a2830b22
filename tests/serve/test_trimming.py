import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lifelong.core.errors import LogError
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog
from lifelong.serve.records import key_of

SCRIPT = Path(__file__).with_name("log_crash.py")


def prediction(id, subject=None, x="x"):
    return Event("prediction", id, 1.0, {"x": x}, subject=subject)


def label(id, about):
    return Event("label", id, 1.0, {"y": 1}, about=about)


def example(id, subject=None):
    return Event("example", id, 1.0, {"x": [1.0], "y": 1}, subject=subject)


@pytest.fixture
def log(tmp_path):
    with SQLiteLog(tmp_path, write=True) as log:
        yield log


def left(log):
    rows = log._store.writer.execute("SELECT id FROM events ORDER BY offset")
    return [id for (id,) in rows]


def test_a_row_that_becomes_whole_after_the_beginning_keeps_its_older_half(log):
    log.append([prediction("late"), label("early-l", "early"), prediction("whole")])
    log.append([label("whole-l", "whole"), prediction("never"), example("e"), label("z", "none")])
    begin = log.last
    log.append([label("late-l", "late"), prediction("early")])
    assert log.trim(begin + 1) == 5
    assert left(log) == ["late", "early-l", "late-l", "early"]
    assert log.verify() == []
    assert [event.id for event in log.read(begin, 9)] == ["late-l", "early"]
    with pytest.raises(LogError, match=f"trimmed up to offset {begin}"):
        log.read(begin - 1, 9)
    # Whole now, and before the beginning: gone the next time.
    assert log.trim(log.last + 1) == 4
    assert left(log) == []
    assert log.verify() == []


def test_a_second_label_is_never_taken_for_the_first(log):
    log.append([prediction("p"), *(label(f"l-{i}", "p") for i in range(3))])
    begin = log.last
    log.append([label("again", "p")])
    log.mark(begin)
    after = 0
    while after is not None:  # one event in each transaction
        after, _ = log.sweep(after, 1)
        assert log.find("p") is None or log.label_of("p").id == "l-0"
    assert left(log) == ["again"]
    log.append([label("first", "q"), label("second", "q")])
    log.mark(log.last)
    log.append([prediction("q")])
    log.trim(0)
    assert log.label_of("q").id == "first"


def test_nothing_is_trimmed_while_something_may_have_to_go_back(log):
    log.append([example(f"e-{i}") for i in range(10)])
    log.append([Event("erasure", "x", 1.0, {"first": 4}, subject="ann")])
    assert not log.mark(5, passed=10)
    assert log.trimmed == 0
    assert log.mark(5, passed=11)
    assert log.trimmed == 5
    assert log.mark(3, passed=11)
    assert log.trimmed == 5  # it never goes back
    log.append([Event("decision", "d", 1.0, {"action": "rollback", "discard_after": 8})])
    assert not log.mark(7, passed=11)


def test_verdicts_that_come_all_the_time_hold_nothing_back(log):
    for i in range(10):
        log.append([example(f"e-{i}"), Event("decision", f"v-{i}", 1.0, {"action": "verdict"})])
    assert log.mark(5, passed=10)
    assert log.trimmed == 5


def test_decisions_stay_known(log, monkeypatch):
    monkeypatch.setattr("lifelong.serve.trimming.DECISIONS", 3)
    for i in range(8):
        log.append([Event("decision", f"d-{i}", 1.0, {"action": "promote"}), example(f"e-{i}")])
    log.trim(log.last + 1)
    assert left(log) == ["d-5", "d-6", "d-7"]


def test_ids_are_forgotten_after_a_while_and_offsets_are_not_given_again(log):
    log.append([example(f"e-{i}", subject="ann") for i in range(100)])
    log.trim(91)
    assert log.append([example("e-0"), example("e-89")]) == [1, 90]
    assert log.forget_ids(20, 50)
    assert not log.forget_ids(20, 50)
    assert log.verify() == []
    assert log.append([example("e-70"), example("e-69")]) == [71, 101]
    traces = log.traces_of("ann")
    assert (len(traces.rows), traces.first, traces.unknown) == (20, 71, 70)
    assert not traces.none


def test_what_was_learned_from_trimmed_events_of_a_subject_is_known_until_it_is_erased(log):
    log.append([example("e", "ann"), prediction("p", "ann"), label("l", "p")])
    log.append([prediction("unlabelled", "ann"), example("bob's", "bob"), example("new", "ann")])
    assert log.first_of("ann") == 1
    log.trim(6)
    assert log.first_of("ann") == 6
    assert sorted(log.traces_of("ann").rows) == sorted(map(key_of, ("e", "p")))
    assert log.traces_of("ann").first == 1
    assert log.traces_of("carl").none
    assert log.erase("ann") == 1
    assert log.traces_of("ann").none
    assert log.append([example("e", "ann"), example("new", "ann")]) == [1, 6]
    assert not log.forget_ids(0, 100)
    assert log.append([example("e", "ann")]) == [1]  # erased ids are not forgotten
    assert log.verify() == []


def test_what_is_before_the_beginning_counts_as_learned_though_it_is_still_there(log):
    log.append([example("e", "ann"), prediction("p", "ann"), label("l", "p")])
    log.append([prediction("waits", "ann"), example("new", "ann"), label("late", "waits")])
    log.mark(4)  # nothing is removed yet
    traces = log.traces_of("ann")
    assert sorted(traces.rows) == sorted(map(key_of, ("e", "p")))
    assert traces.first == 1
    after = 0
    while after is not None:  # and so it is at any time while it is being removed
        after, _ = log.sweep(after, 1)
        assert log.traces_of("ann") == traces
    assert log.traces_of("bob").none


def test_of_a_label_with_a_subject_of_its_own_the_row_is_known(log):
    log.append([prediction("p"), Event("label", "l", 1.0, {"y": 1}, about="p", subject="ann")])
    log.mark(2)
    assert log.traces_of("ann").rows == [key_of("p")]
    log.trim(3)
    assert log.traces_of("ann").rows == [key_of("p")]
    assert log.verify() == []


def test_of_a_trimmed_half_the_learner_at_the_beginning_has_seen_nothing(log):
    log.append([prediction("p", "ann"), example("e"), label("l", "p")])
    log.trim(3)
    assert left(log) == ["p", "l"]
    assert log.first_of("ann") == 3


def test_pages_are_given_back_and_no_byte_stays_after_rewriting(log, tmp_path):
    secrets = [f"<secret-{i}>" for i in range(2000)]
    log.append([prediction(f"p{i}-{s}", s, s * 20) for i, s in enumerate(secrets)])
    log._store.writer.wal_checkpoint(mode=3)
    path = tmp_path / "events.db"
    full = path.stat().st_size
    assert log.rewritten is None
    log.trim(1901)
    while log.give_back(64):
        pass
    log._store.writer.wal_checkpoint(mode=3)
    assert path.stat().st_size < full / 3
    assert log.size == path.stat().st_size
    assert log.rewritten is not None
    log.rewrite()
    assert log.rewritten is None
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in secrets[:1900]), file
    assert b"<secret-1950>" in path.read_bytes()
    assert log.verify() == []


def test_a_kill_while_trimming_undoes_or_does_each_part(tmp_path):
    chance = random.Random(0)
    with SQLiteLog(tmp_path, write=True) as log:
        log.append([example(f"first-{i}", "ann") for i in range(1000)])
    for life in range(6):
        script = [sys.executable, str(SCRIPT), "trim", str(tmp_path), f"w{life}"]
        writer = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        said = [writer.stdout.readline() for _ in range(2)]
        time.sleep(chance.random() * 0.3)
        writer.send_signal(signal.SIGKILL)
        said += writer.communicate()[0].splitlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged = {line.split()[1]: int(line.split()[0]) for line in said if line.strip()}
        with SQLiteLog(tmp_path, write=True) as log:
            assert log.verify() == []
            kept = {event.id: event.offset for event in log.read(log.trimmed, 10**6)}
            for id, offset in acknowledged.items():
                assert offset <= log.trimmed or kept[id] == offset
            assert log.trimmed > 0
            log.trim(0)
            assert all(event > log.trimmed for event in kept.values())
