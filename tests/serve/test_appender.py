import asyncio
import queue
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from log_crash import Disk

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.appender import Appender, Busy
from lifelong.serve.events import Event
from lifelong.serve.log import Conflict, InvalidEvent, SQLiteLog


def label(id, y=1):
    return Event("label", id, 0.0, {"y": y}, about="p")


@pytest.fixture
def log(tmp_path):
    with SQLiteLog(tmp_path, write=True) as log:
        yield log


class Gate:
    """Hold the log's commits back until told, and note how large they were."""

    def __init__(self, log, monkeypatch):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.sizes = []
        append = log.append_each

        def gated(events):
            self.sizes.append(len(events))
            self.entered.release()
            assert self.open.wait(30)
            return append(events)

        monkeypatch.setattr(log, "append_each", gated)

    def hold(self, appender):
        """Send one event, and return once it is being committed."""
        first = appender.submit(label("first"))
        assert self.entered.acquire(timeout=30)
        return first


def test_many_threads_each_learn_the_offset_of_their_own_event(log):
    def produce(thread):
        names = [f"{thread}-{i}" for i in range(50)]
        return [(name, appender.submit(label(name)).result(30)) for name in names]

    with Appender(log) as appender, ThreadPoolExecutor(8) as pool:
        told = dict(pair for pairs in pool.map(produce, range(8)) for pair in pairs)
    assert sorted(told.values()) == list(range(1, 401))
    assert {event.id: event.offset for event in log.read(0, 999)} == told


def test_what_waits_becomes_one_transaction_in_the_order_of_sending(log, monkeypatch):
    gate = Gate(log, monkeypatch)
    with Appender(log, group=20) as appender:
        first = gate.hold(appender)
        futures = [appender.submit(label(f"l-{i}")) for i in range(50)]
        assert appender.waiting == 50
        assert not first.done()
        gate.open.set()
        assert [future.result(30) for future in futures] == list(range(2, 52))
    assert gate.sizes == [1, 20, 20, 10]


def test_an_offset_is_told_only_after_the_commit(log, monkeypatch):
    gate = Gate(log, monkeypatch)
    seen = []
    with Appender(log) as appender:
        future = gate.hold(appender)
        future.add_done_callback(lambda done: seen.append((done.result(), log.last)))
        assert log.last == 0
        gate.open.set()
    assert seen == [(1, 1)]


def test_a_full_queue_refuses_at_once_and_takes_again_later(log, monkeypatch):
    gate = Gate(log, monkeypatch)
    with Appender(log, capacity=3) as appender:
        gate.hold(appender)
        futures = [appender.submit(label(f"l-{i}")) for i in range(3)]
        with pytest.raises(Busy, match="3 events wait") as caught:
            appender.submit(label("too many"))
        assert isinstance(caught.value, LifelongError)
        assert isinstance(caught.value, queue.Full)
        gate.open.set()
        assert [future.result(30) for future in futures] == [2, 3, 4]
        assert appender.submit(label("later")).result(30) == 5
    assert log.find("too many") is None


def test_a_bad_event_fails_alone(log, monkeypatch):
    log.append([label("known")])
    gate = Gate(log, monkeypatch)
    with Appender(log) as appender:
        gate.hold(appender)
        events = [label("a"), label("known", 2), label("nan", float("nan")), label("b"), label("a")]
        good, conflict, invalid, other, again = [appender.submit(event) for event in events]
        gate.open.set()
        assert (good.result(30), other.result(30), again.result(30)) == (3, 4, 3)
        with pytest.raises(Conflict, match="'known'"):
            conflict.result(30)
        with pytest.raises(InvalidEvent, match="nan"):
            invalid.result(30)
    assert gate.sizes == [1, 5]
    assert log.last == 4


def test_an_event_that_was_cancelled_in_time_is_not_written(log, monkeypatch):
    gate = Gate(log, monkeypatch)
    with Appender(log) as appender:
        first = gate.hold(appender)
        waiting = appender.submit(label("given up"))
        other = appender.submit(label("other"))
        assert waiting.cancel()
        assert not first.cancel()  # too late: it is being written
        gate.open.set()
        assert (first.result(30), other.result(30)) == (1, 2)
        with pytest.raises(CancelledError):
            waiting.result(30)
    assert log.find("given up") is None


def test_closing_writes_what_waits(log, monkeypatch):
    gate = Gate(log, monkeypatch)
    appender = Appender(log, group=4)
    gate.hold(appender)
    futures = [appender.submit(label(f"l-{i}")) for i in range(10)]
    closing = threading.Thread(target=appender.close)
    closing.start()
    gate.open.set()
    closing.join(30)
    assert not closing.is_alive()
    assert [future.result(0) for future in futures] == list(range(2, 12))
    with pytest.raises(LogError, match=r"'late'.*closed"):
        appender.submit(label("late"))
    appender.close()


def test_a_full_disk_fails_the_futures_and_room_ends_that(tmp_path):
    with Disk() as disk, SQLiteLog(tmp_path, write=True) as log, Appender(log) as appender:
        assert appender.submit(label("a")).result(30) == 1
        disk.room = 0
        futures = [appender.submit(label(name)) for name in "bcd"]
        for future in futures:
            with pytest.raises(LogError, match="full"):
                future.result(30)
        disk.room = float("inf")
        assert appender.submit(label("b")).result(30) == 2


def test_whatever_goes_wrong_nobody_waits_for_ever(log, monkeypatch):
    def broken(events):
        raise ZeroDivisionError

    with Appender(log) as appender:
        with monkeypatch.context() as patch:
            patch.setattr(log, "append_each", broken)
            with pytest.raises(LogError, match="ZeroDivisionError"):
                appender.submit(label("a")).result(30)
        assert appender.submit(label("a")).result(30) == 1


def test_it_serves_asyncio(log):
    async def send(name):
        return await asyncio.wrap_future(appender.submit(label(name)))

    async def everybody():
        return await asyncio.gather(*(send(f"l-{i}") for i in range(300)))

    with Appender(log) as appender:
        assert asyncio.run(everybody()) == list(range(1, 301))


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"group": 0}])
def test_limits_are_checked(log, wrong):
    with pytest.raises(ValueError, match="1 or more"):
        Appender(log, **wrong)
