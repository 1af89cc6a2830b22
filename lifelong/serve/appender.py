"""Group commit: what many producers send becomes one transaction, and so one wait for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Full
from typing import TypeAlias

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog

LONGEST = 0.002
"""Seconds at most that a group waits for more events."""
STUCK = 0.5
"""Seconds after which the thread takes what an event loop was to commit and has not."""
QUICK = 0.002
"""Seconds: while commits take less, an event loop makes them itself."""
QUIET = 6
"""Rounds of an event loop that bring no event, after which it commits: a request takes three."""
FEW = 64
"""Events at most in a group that an event loop commits itself."""
_Settled: TypeAlias = tuple[asyncio.Future[int], int | LogError]
_Waiting: TypeAlias = tuple[Event, Future[int] | asyncio.Future[int]]
_Committed: TypeAlias = tuple[Sequence[_Waiting], Sequence[int | LogError], BaseException | None]
_NOTHING: _Committed = ((), (), None)


class Busy(LifelongError, Full):
    """More events wait to be written than there is room for; send this one again later."""


class Appender:
    """Append to a log from many threads or from asyncio, in groups.

    While one group is being committed the next one gathers. Where fewer events have come by then
    than the last group had, those who sent that one are given a tenth of the time that it took to
    send the next: else groups of one and of all but one would take turns. Offsets follow the order
    in which `submit` was called.

    Another thread has to be woken, and to take the interpreter from the one that asked, which
    costs more than a commit to a fast disk. So what comes from an event loop is committed there,
    once some rounds of the loop have brought nothing more, as long as the last commit was quick and
    nobody else has the log; the thread has what is left.

    Args:
        log: open with `write=True`; it stays open when the appender is closed.
        capacity: how many events may wait. It bounds memory, and how long an event waits.
        group: how many events at most become one transaction.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, SQLiteLog(folder, write=True) as log:
        ...     with Appender(log) as appender:
        ...         waits = [appender.submit(Event("tick", f"t-{i}", 0.0, {})) for i in range(3)]
        ...         [wait.result() for wait in waits]
        [1, 2, 3]
    """

    def __init__(self, log: SQLiteLog, *, capacity: int = 10_000, group: int = 1_000) -> None:
        if capacity < 1 or group < 1:
            raise ValueError(f"capacity is {capacity} and group {group}; give 1 or more of each")
        self._log = log
        self._capacity = capacity
        self._group = group
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        """Held from the moment a group is taken until it is committed."""
        self._closed = False
        self._quick = True
        """Whether the last commit was."""
        self._due: asyncio.AbstractEventLoop | None = None
        """The event loop that will look after what waits."""
        self._usual = 1
        """Events in the last group."""
        self._patience = 0.0
        """Seconds to wait for as many again."""
        self._took = 0.0
        """Seconds of the last commit."""
        self._thread = threading.Thread(target=self._run, name="log-appender", daemon=True)
        self._thread.start()

    def submit(self, event: Event) -> Future[int]:
        """Queue an event; the future gives its offset once it is durable.

        The future fails with `Conflict` or `InvalidEvent` if this event cannot be added (others of
        its group are), and with `LogError` if the log cannot be written. A future that is cancelled
        before its event's turn takes the event with it. In asyncio:
        `await asyncio.wrap_future(appender.submit(event))`.

        Raises:
            Busy: `capacity` events wait already.
            LogError: the appender is closed.
        """
        future: Future[int] = Future()
        self._add(event, future)
        return future

    def send(self, event: Event) -> asyncio.Future[int]:
        """Do as `submit`, for use in an event loop, at less cost: a group wakes the loop once.

        Cancelling the future leaves the event where it is.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._add(event, future)
        return future

    def _add(self, event: Event, future: Future[int] | asyncio.Future[int]) -> None:
        with self._changed:
            if self._closed:
                raise LogError(f"cannot append {event.id!r}: the appender is closed")
            if len(self._queue) >= self._capacity:
                raise Busy(f"{len(self._queue)} events wait for the disk; send again later")
            self._queue.append((event, future))
            if isinstance(future, asyncio.Future) and self._quick and len(self._queue) <= FEW:
                loop = future.get_loop()
                if self._due is not loop:
                    self._due = loop
                    loop.call_soon(self._wait_here, loop, 1, 0, time.perf_counter() + LONGEST)
            elif len(self._queue) in (1, self._usual) or self._due is not None:
                self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many events wait for their turn."""
        return len(self._queue)

    def close(self) -> None:
        """Write what waits, then stop; harmless when called again."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._wait()
                if not self._queue:
                    return
                if len(self._queue) < self._usual and not self._closed:
                    self._changed.wait(self._patience)
            with self._turn:
                group, results, _ = self._commit_next(self._group)
            self._usual, self._patience = max(1, len(group)), min(0.1 * self._took, LONGEST)
            _settle_group(group, results)  # with the turn free, for a loop that goes on with it

    def _wait(self) -> None:
        """Wait until the thread has something to do, or is to end."""
        while not self._closed and (not self._queue or self._due is not None):
            oldest = self._queue[0] if self._queue else None
            told = self._changed.wait(STUCK)
            if self._queue and (told or self._queue[0] is oldest):
                return  # from another thread; or its loop stands still, or has ended

    def _wait_here(
        self, loop: asyncio.AbstractEventLoop, seen: int, quiet: int, until: float
    ) -> None:
        """Let the loop go round until that has brought no event for a while."""
        waiting = len(self._queue)
        quiet = quiet + 1 if waiting == seen else 0
        if quiet < QUIET and waiting < FEW and time.perf_counter() < until:
            loop.call_soon(self._wait_here, loop, waiting, quiet, until)
        else:
            self._commit_here()

    def _commit_here(self) -> None:
        """Commit in the event loop what waits, or leave it to the thread."""
        self._due = None
        group, results, stopped = _NOTHING
        if self._turn.acquire(blocking=False):
            try:
                with self._log.at_once() as free:
                    if free:
                        group, results, stopped = self._commit_next(min(FEW, self._group))
            finally:
                self._turn.release()
        with self._changed:
            if self._queue:
                self._changed.notify()
        _settle_group(group, results)
        if stopped is not None:
            raise stopped  # a ctrl-C is for whoever runs the loop

    def _commit_next(self, most: int) -> _Committed:
        """Commit the next group: what it was, what became of each, and what is to be raised."""
        with self._changed:
            taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        group = [pair for pair in taken if _begins(pair[1])]
        if not group:  # an event loop was faster, or nobody wants them any more
            return _NOTHING
        results: Sequence[int | LogError]
        stopped: BaseException | None = None
        start = time.perf_counter()
        try:
            results = self._log.append_each([event for event, _ in group])
        except BaseException as error:  # whatever it was: nobody may wait for ever
            results = [_own(error) for _ in group]
            stopped = None if isinstance(error, Exception) else error
        self._took = time.perf_counter() - start
        self._quick = self._took < QUICK
        return group, results, stopped


def _settle_group(group: Sequence[_Waiting], results: Sequence[int | LogError]) -> None:
    """Tell everybody what became of their event, each loop at once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Settled]] = {}
    for (_, future), result in zip(group, results, strict=True):
        if isinstance(future, Future):
            _settle(future, result)
        else:
            loops.setdefault(future.get_loop(), []).append((future, result))
    here = asyncio._get_running_loop()
    for loop, pairs in loops.items():
        if loop is here:
            _settle_all(pairs)
            continue
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle_all, pairs)


def _begins(future: Future[int] | asyncio.Future[int]) -> bool:
    return not isinstance(future, Future) or future.set_running_or_notify_cancel()


def _own(error: BaseException) -> LogError:
    # Each gets its own, as raising one object in many threads tangles its traceback.
    own = LogError(str(error) or repr(error))
    own.__cause__ = error
    return own


def _settle(future: Future[int] | asyncio.Future[int], result: int | LogError) -> None:
    if isinstance(result, LogError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _settle_all(pairs: list[_Settled]) -> None:
    for future, result in pairs:
        if not future.done():  # cancelled while its event was written
            _settle(future, result)
