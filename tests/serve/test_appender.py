import asyncio
import queue
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace

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


def threads_of(log, monkeypatch):
    """Note which thread commits how many events."""
    seen = []
    append = log.append_each

    def noted(events):
        seen.append((threading.current_thread().name, len(events)))
        return append(events)

    monkeypatch.setattr(log, "append_each", noted)
    return seen


async def sent(appender, *names):
    return [appender.send(label(name)) for name in names]


def test_a_loop_commits_in_one_group_what_its_next_rounds_bring(log, monkeypatch):
    seen = threads_of(log, monkeypatch)

    async def later(appender):
        for _ in range(3):  # as long as a request takes to become an event
            await asyncio.sleep(0)
        return await appender.send(label("later"))

    async def main(appender):
        others = [asyncio.create_task(later(appender)) for _ in range(1)]
        first = await sent(appender, "a", "b")
        return [await future for future in (*first, *others)]

    with Appender(log) as appender:
        assert asyncio.run(main(appender)) == [1, 2, 3]
    assert seen == [(threading.current_thread().name, 3)]


def test_a_loop_does_not_wait_for_a_log_that_another_thread_has(log, monkeypatch):
    seen = threads_of(log, monkeypatch)
    taken, over = threading.Event(), threading.Event()

    def hold():
        with log.at_once() as free:
            assert free
            taken.set()
            assert over.wait(30)

    async def main(appender):
        [future] = await sent(appender, "a")
        for _ in range(100):
            await asyncio.sleep(0)  # the loop goes round
        assert not future.done()
        over.set()
        return await asyncio.wait_for(future, 30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    with Appender(log) as appender:
        assert asyncio.run(main(appender)) == 1
    holder.join()
    assert seen == [("log-appender", 1)]


def test_a_loop_leaves_slow_commits_to_the_thread_until_they_are_quick_again(log, monkeypatch):
    seen = threads_of(log, monkeypatch)
    now, slow = [0.0], [0.02, 0.02, 0.0, 0.0]
    noted = log.append_each

    def slower(events):
        now[0] += slow.pop(0)
        return noted(events)

    monkeypatch.setattr(log, "append_each", slower)
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("lifelong.serve.appender.time", clock)

    async def main(appender):
        return [await (await sent(appender, name))[0] for name in "abcd"]

    with Appender(log) as appender:
        assert asyncio.run(main(appender)) == [1, 2, 3, 4]
    own = threading.current_thread().name
    assert [name for name, _ in seen] == [own, "log-appender", "log-appender", own]


def test_a_loop_that_ended_with_events_waiting_does_not_keep_the_next_one_from_its_turn(log):
    with Appender(log) as appender:
        asyncio.run(sent(appender, "left behind"))
        [future] = asyncio.run(asyncio.wait_for(all_of(appender, "a"), 30))
        assert future == 2
    assert [event.id for event in log.read(0, 9)] == ["left behind", "a"]


async def all_of(appender, *names):
    return [await future for future in await sent(appender, *names)]


def test_threads_and_a_loop_together_keep_the_order_of_sending(log):
    async def main(appender, count):
        futures = []
        for i in range(count):
            name = f"{i:03}"
            in_loop = i % 3 != 0
            wait = appender.send(label(name)) if in_loop else appender.submit(label(name))
            futures.append(wait if in_loop else asyncio.wrap_future(wait))
            if i % 7 == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*futures)

    with Appender(log) as appender:
        assert asyncio.run(main(appender, 300)) == list(range(1, 301))
    assert [event.id for event in log.read(0, 999)] == [f"{i:03}" for i in range(300)]


def test_what_a_loop_leaves_behind_is_written_all_the_same(log, monkeypatch):
    monkeypatch.setattr("lifelong.serve.appender.STUCK", 0.05)
    seen = threads_of(log, monkeypatch)
    with Appender(log) as appender:
        asyncio.run(sent(appender, "left behind"))
        until = time.monotonic() + 30
        while log.last < 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert (log.last, appender.waiting) == (1, 0)
    assert seen == [("log-appender", 1)]


def test_a_disk_that_fails_under_a_loop_fails_its_futures_and_room_ends_that(tmp_path):
    async def main(appender, *names):
        return await asyncio.gather(*await sent(appender, *names), return_exceptions=True)

    with Disk() as disk, SQLiteLog(tmp_path, write=True) as log, Appender(log) as appender:
        assert asyncio.run(main(appender, "a")) == [1]
        disk.room = 0
        refused = asyncio.run(main(appender, "b", "c"))
        assert all(isinstance(one, LogError) and "disk is full" in str(one) for one in refused)
        disk.room = float("inf")
        assert asyncio.run(main(appender, "c", "b", "a")) == [2, 3, 1]
        assert log.verify() == []


def test_a_ctrl_c_in_a_loops_commit_reaches_who_runs_the_loop(log, monkeypatch):
    def stopped(events):
        raise KeyboardInterrupt

    async def main(appender):
        [future] = await sent(appender, "a")
        with pytest.raises(KeyboardInterrupt):
            appender._commit_here()
        with pytest.raises(LogError, match="KeyboardInterrupt"):
            await future

    monkeypatch.setattr(log, "append_each", stopped)
    with Appender(log) as appender:
        asyncio.run(main(appender))
        monkeypatch.undo()
        assert asyncio.run(all_of(appender, "b")) == [1]


def test_a_loop_never_brings_the_wal_into_the_file(log, monkeypatch):
    monkeypatch.setattr("lifelong.serve.store.WAL_PAGES", 8)
    spilled, spill = [], log._store._spill

    def noted():
        if log._store._wal >= 8:
            spilled.append(threading.current_thread().name)
        spill()

    async def main(appender):
        return [await (await sent(appender, f"{n}"))[0] for n in range(40)]

    monkeypatch.setattr(log._store, "_spill", noted)
    with Appender(log) as appender:
        assert asyncio.run(main(appender)) == list(range(1, 41))
    assert set(spilled) == {"log-appender"}
