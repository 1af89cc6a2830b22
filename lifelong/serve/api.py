"""The api process: answers requests, owns the event log, and decides what is served."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from lifelong.core.errors import LifelongError, LogError, RegistryError
from lifelong.serve.app import create_app, settle
from lifelong.serve.appender import Appender, Busy
from lifelong.serve.audit import Audit
from lifelong.serve.auth import Key, Keys, hash_of
from lifelong.serve.config import Config
from lifelong.serve.events import Event
from lifelong.serve.exported import LogStatus, TrainerStatus
from lifelong.serve.log import SQLiteLog
from lifelong.serve.registry import Registry
from lifelong.serve.retention import Retention
from lifelong.serve.routes import Parts
from lifelong.serve.snapshot import Holder, Snapshot
from lifelong.serve.versions import write_json
from lifelong.serve.weights import model_of

INTERNAL = "LIFELONG_INTERNAL_KEY"
"""The variable with which the supervisor tells both processes the trainer's key."""

HELD = 60.0
"""Seconds for which the log stays as it is after somebody asked how far to go back."""
PAUSE = 60.0
"""Seconds before trimming is tried again where it failed."""

_log = logging.getLogger("lifelong.serve")
Found = TypeVar("Found")


class Api:
    """What the service does behind its routes.

    Args:
        config: of the service.

    Raises:
        LogError: another process writes the log, or it is damaged.
        RegistryError: no version is served yet, or the one that is cannot be loaded.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.make = config.factory()
        self.registry = Registry(config.folder)
        champion = self.registry.alias("champion")
        if champion is None:
            raise RegistryError(
                f"no version of {config.folder} is served; register and promote one"
            )
        self.log = SQLiteLog(config.folder / "log", write=True)
        try:
            self.audit = Audit(config.folder / "audit.jsonl")
            self.holder = Holder(self._whole(champion))
        except BaseException:
            self.log.close()
            raise
        self.appender = Appender(self.log)
        self._last_tick = 0  # rows may wait since before this process
        self._deciding_at = -math.inf
        self.metrics = CollectorRegistry()
        self.metrics.register(TrainerStatus(config.folder / "trainer"))
        self.metrics.register(LogStatus(self.log))
        ProcessCollector(registry=self.metrics)
        self._delay = Gauge(
            "lifelong_label_to_served_seconds",
            "From the middle event of what the served version had newly learned until it served",
            registry=self.metrics,
        )
        self._delay.set(math.nan)
        kept = config.log
        self.retention = Retention(
            self.log,
            config.folder / "trainer",
            self.audit,
            kept.keep,
            remember=kept.remember,
            compact=kept.compact,
            held=lambda: time.monotonic() - self._deciding_at < HELD,
        )
        self._one = threading.Lock()

    def app(self, address: Callable[[], str] = str) -> FastAPI:
        """Make the HTTP service.

        Args:
            address: where it answers; asked for when it does, for the trainer to know.
        """
        schema, _, keys = self.config.parts()
        serve = self.config.serve
        parts = Parts(
            schema=schema,
            holder=self.holder,
            submit=self.appender.submit,
            find=self.log.find,
            keys=self._with_trainer(keys),
            versions=self.versions,
            promote=self.promote,
            rollback=self.rollback,
            erase=self.erase,
            first_of=self.first_of,
            traces_of=self.traces_of,
            learned_until=self.learned_until,
            metrics=self.metrics,
            log=serve.log,
            batch_rows=serve.batch_rows,
            most_waiting=serve.most_waiting,
            most_bytes=serve.most_bytes,
        )

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
            ticking = asyncio.create_task(self._tick())
            telling = asyncio.create_task(self._tell(address))
            retaining = asyncio.create_task(self._retain())
            try:
                yield
            finally:
                for task in (ticking, telling, retaining):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                self.close()

        return create_app(parts, lifespan)

    async def versions(self) -> list[dict[str, Any]]:
        """List the versions, oldest first."""
        found = await _aside(self.registry.versions)
        return [
            {
                "version": version.number,
                "parent": version.parent,
                "first_offset": version.first_offset,
                "last_offset": version.last_offset,
                "metrics": version.metrics,
                "time": version.time,
                "retired": version.retired,
            }
            for version in found
        ]

    async def promote(self, number: int, reason: str, who: str) -> int:
        """Serve a version: its files are checked, then the alias moves, then the answers."""
        return await _aside(lambda: self._serve("promote", number, reason, who))

    async def rollback(self, to: int | None, reason: str, who: str) -> int:
        """Serve an earlier version: `to`, or the champion before this one."""

        def back() -> int:
            number = self.registry.previous_champion() if to is None else to
            if number is None:
                raise RegistryError("there is no champion before this one to go back to")
            return self._serve("rollback", number, reason, who)

        return await _aside(back)

    async def erase(self, subject: str, who: str) -> None:
        """Remove what the log holds of a subject."""

        def remove() -> None:
            events = self.log.erase(subject)
            self.audit.append("erase", who, {"events": events})

        await _aside(remove)

    def first_of(self, subject: str) -> int:
        """Return the first offset that an erasure has to go back to; the log stays as it is."""
        self._deciding_at = time.monotonic()
        return self.log.first_of(subject) or self.log.last + 1

    def traces_of(self, subject: str) -> dict[str, Any]:
        """Tell what was learned from a subject's events that the log no longer has."""
        traces = self.log.traces_of(subject)
        if traces.none:
            return {}
        return {"forget": traces.rows, "first": traces.first, "unknown": traces.unknown}

    def learned_until(self, number: int) -> int:
        """Return the last offset that a version has learned from; the log stays as it is.

        Raises:
            RegistryError: the log no longer reaches back to it.
        """
        self._deciding_at = time.monotonic()
        last, begin = self.registry.get(number).last_offset, self.log.trimmed
        if last < begin:
            raise RegistryError(
                f"version {number} was learned up to event {last}, and the log begins after "
                f"{begin}: what came since cannot be unlearned; roll back without discard"
            )
        return last

    def close(self) -> None:
        """Write what waits, and close the log."""
        self.appender.close()
        self.log.close()

    def _serve(self, action: str, number: int, reason: str, who: str) -> int:
        with self._one:
            snapshot = self._snapshot(number)
            self.registry.set_alias("champion", number)
            self.holder.current = snapshot
            self.audit.append(action, who, {"version": number, "reason": reason})
        if action == "promote":
            self._time(number)
        return number

    def _time(self, number: int) -> None:
        """Note how long what a version has learned took until it was served."""
        version = self.registry.get(number)
        middle = (version.first_offset + version.last_offset) // 2
        with suppress(LogError):
            when = self.log.time_at(middle)
            if when is not None and middle <= version.last_offset:
                self._delay.set(time.time() - when)

    def _whole(self, champion: int) -> Snapshot:
        """Load the champion; where its files are damaged, go back to the last one that is whole."""
        try:
            return self._snapshot(champion)
        except RegistryError as error:
            before = self.registry.previous_champion()
            if before is None:
                raise
            _log.error("%s; version %s answers instead", error, before)
            snapshot = self._snapshot(before)
            self.registry.set_alias("champion", before)
            self.audit.append("rollback", "api", {"version": before, "reason": str(error)})
            return snapshot

    def _snapshot(self, number: int) -> Snapshot:
        return Snapshot(number, model_of(self.make, self.registry.load_weights(number)))

    def _with_trainer(self, keys: Keys) -> Keys:
        own = os.environ.get(INTERNAL)
        if not self.config.keys or own is None:
            return keys
        made = [Key(k.name, frozenset(k.roles), k.sha256, k.rate) for k in self.config.keys]
        return Keys([*made, Key("trainer", frozenset({"operate"}), hash_of(own))])

    async def _tick(self) -> None:
        """Write a tick into the log where rows may wait for a full batch."""
        while True:
            await asyncio.sleep(self.config.serve.flush)
            with suppress(LogError, Busy):
                last = await _aside(lambda: self.log.last)
                if last > self._last_tick:
                    event = Event("tick", f"tick after {last}", time.time(), {})
                    self._last_tick = await asyncio.wrap_future(self.appender.submit(event))

    async def _retain(self) -> None:
        """Trim the log, all the time and a little at once."""
        while True:
            wait = PAUSE
            try:
                wait = await _aside(self.retention.step)
            except LifelongError as error:
                _log.warning("cannot trim the log: %s", error)
            await asyncio.sleep(wait)

    async def _tell(self, address: Callable[[], str]) -> None:
        """Write down where this answers, once that is known."""
        while not (url := address()):
            await asyncio.sleep(0.02)
        path = self.config.folder / "api.json"
        while True:
            try:
                write_json(path, {"url": url, "pid": os.getpid()})
                return
            except RegistryError:  # the disk may be full now, and not later
                await asyncio.sleep(1.0)


def run(path: Path) -> None:
    """Serve until told to stop by a signal."""
    torch.set_num_threads(1)
    config = Config.read(path)
    api = Api(config)
    server: uvicorn.Server | None = None

    def address() -> str:
        if server is None or not server.started or not server.servers:
            return ""
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"

    server = uvicorn.Server(
        uvicorn.Config(
            api.app(address),
            host=config.serve.host,
            port=config.serve.port,
            log_config=None,  # its loggers pass on to ours
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    settle()
    server.run()


async def _aside(work: Callable[[], Found]) -> Found:
    """Do slow work in another thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
