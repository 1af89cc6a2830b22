"""Events into the log, from the event loop: all that were sent, and an answer for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from queue import Full
from typing import TypeAlias

from lifelong.core.errors import LogError
from lifelong.serve.auth import Refused
from lifelong.serve.events import Event

_log = logging.getLogger("lifelong.serve")
Submitted: TypeAlias = Future[int] | asyncio.Future[int]
"""The offset of an event, when it is durable."""


class Recorder:
    """Have events logged, and wait for as long as that takes without holding up others.

    Args:
        to: takes an event, or raises `queue.Full`.
        on_event: is told the kind of each event that has become durable, in any thread.
    """

    def __init__(self, to: Callable[[Event], Submitted], on_event: Callable[[str], object]) -> None:
        self._to = to
        self._on_event = on_event
        self.lost: str | None = None
        """Why the newest event that was acknowledged before it was durable never became so."""

    async def record(self, events: list[Event]) -> list[int]:
        """Log events and return their offsets; say which cannot be, the others are."""
        results = await self.append(events)
        offsets = [result for result in results if isinstance(result, int)]
        if len(offsets) < len(events):
            failed = [result for result in results if isinstance(result, LogError)]
            what = str(failed[0])
            if len(events) > 1:
                what = f"{len(failed)} of {len(events)} are not in the log; the first: {what}"
            raise Refused(409, what, "send an id again only with what it was sent with")
        return offsets

    async def append(self, events: list[Event]) -> list[int | LogError]:
        """Log events; an error stands for each whose id the log has with another content."""
        results: list[int | LogError] = []
        for event, future in zip(events, await self._submit(events), strict=True):
            try:
                results.append(await _result(future))
                self._on_event(event.kind)
            except LogError as error:
                if not isinstance(error, ValueError):
                    raise
                results.append(error)
        return results

    async def trust(self, events: list[Event]) -> None:
        """Log events without waiting until they are durable; `lost` tells if one never was."""
        for future in await self._submit(events):
            future.add_done_callback(self._noted)

    async def _submit(self, events: list[Event]) -> list[Submitted]:
        """Queue events: all, or none where there is no room even for the first."""
        futures: list[Submitted] = []
        for event in events:
            while True:
                try:
                    futures.append(self._to(event))
                    break
                except Full:
                    if not futures:
                        raise
                # Refusing the rest now would have the client send the first ones again.
                await asyncio.sleep(0.002)
        return futures

    def _noted(self, future: Submitted) -> None:
        error = future.exception()
        if error is None:
            self._on_event("prediction")
        elif not isinstance(error, ValueError):  # else the log has a first one of that id
            self.lost = str(error)
            _log.error("the log refused a prediction that was answered: %s", error)


def _result(future: Submitted) -> asyncio.Future[int]:
    """Wait in the event loop for another thread; unlike `wrap_future`, never cancel its work."""
    if not isinstance(future, Future):
        return future
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[int] = loop.create_future()

    def settle() -> None:
        if mine.done():
            return
        error = future.exception()
        if error is None:
            mine.set_result(future.result())
        else:
            mine.set_exception(error)

    if future.done():
        settle()
        return mine
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(settle))
    return mine
