"""Group commit: what many producers send becomes one transaction, and so one wait for the disk."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from queue import Full

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog


class Busy(LifelongError, Full):
    """More events wait to be written than there is room for; send this one again later."""


class Appender:
    """Append to a log from many threads or from asyncio, in groups.

    While one group is being committed the next one gathers; no event waits for a timer. Offsets
    follow the order in which `submit` was called.

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
        self._queue: deque[tuple[Event, Future[int]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
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
        with self._changed:
            if self._closed:
                raise LogError(f"cannot append {event.id!r}: the appender is closed")
            if len(self._queue) >= self._capacity:
                raise Busy(f"{len(self._queue)} events wait for the disk; send again later")
            self._queue.append((event, future))
            self._changed.notify()
        return future

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
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                size = min(self._group, len(self._queue))
                group = [self._queue.popleft() for _ in range(size)]
            self._commit([pair for pair in group if pair[1].set_running_or_notify_cancel()])

    def _commit(self, group: list[tuple[Event, Future[int]]]) -> None:
        events = [event for event, _ in group]
        try:
            results = self._log.append_each(events) if events else []
        except BaseException as error:  # whatever it was: nobody may wait for ever
            for _, future in group:
                # Each gets its own, as raising one object in many threads tangles its traceback.
                own = LogError(str(error) or repr(error))
                own.__cause__ = error
                future.set_exception(own)
            return
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, LogError):
                future.set_exception(result)
            else:
                future.set_result(result)
