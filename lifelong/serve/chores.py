"""What the api does all the time, beside answering."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.appender import Appender, Busy
from lifelong.serve.aside import aside
from lifelong.serve.events import Event
from lifelong.serve.log import SQLiteLog
from lifelong.serve.retention import Retention

PAUSE = 60.0
"""Seconds before trimming is tried again where it failed."""
_log = logging.getLogger("lifelong.serve")


class Chores:
    """Write ticks, trim the log and count its events, for as long as the api answers.

    Args:
        log: of the service.
        appender: writes it.
        retention: trims it.
        sample: counts its events.
        flush: seconds between ticks.
    """

    def __init__(
        self,
        log: SQLiteLog,
        appender: Appender,
        retention: Retention,
        sample: Callable[[], None],
        flush: float,
    ) -> None:
        self._log, self._appender, self._retention = log, appender, retention
        self._sample, self._flush = sample, flush
        self._last_tick = 0  # rows may wait since before this process

    def all(self) -> tuple[Coroutine[None, None, None], ...]:
        """Return each of them, to be run until it is cancelled."""
        return self._tick(), self._retain(), self._count()

    async def _count(self) -> None:
        """Count the events each second, for their rates."""
        while True:
            await aside(self._sample)
            await asyncio.sleep(1.0)

    async def _tick(self) -> None:
        """Write a tick into the log where rows may wait for a full batch."""
        while True:
            await asyncio.sleep(self._flush)
            with suppress(LogError, Busy):
                last = await aside(lambda: self._log.last)
                if last > self._last_tick:
                    event = Event("tick", f"tick after {last}", time.time(), {})
                    self._last_tick = await asyncio.wrap_future(self._appender.submit(event))

    async def _retain(self) -> None:
        """Trim the log, all the time and a little at once."""
        while True:
            wait = PAUSE
            try:
                wait = await aside(self._retention.step)
            except LifelongError as error:
                _log.warning("cannot trim the log: %s", error)
            await asyncio.sleep(wait)
