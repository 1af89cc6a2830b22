"""The api process: answers requests, owns the event log, and decides what is served."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from lifelong.core.errors import LogError, RegistryError
from lifelong.serve.app import create_app, settle
from lifelong.serve.appender import Appender
from lifelong.serve.aside import aside
from lifelong.serve.audit import Audit
from lifelong.serve.auth import INTERNAL, Key, Keys, hash_of
from lifelong.serve.chores import Chores
from lifelong.serve.config import Config
from lifelong.serve.decisions import tell
from lifelong.serve.deployment import Deployment
from lifelong.serve.exported import LogStatus, TrainerStatus
from lifelong.serve.intent import Intent, event_of
from lifelong.serve.log import SQLiteLog
from lifelong.serve.paging import Page
from lifelong.serve.parts import Parts
from lifelong.serve.quarantine import refused
from lifelong.serve.receipts import Receipts
from lifelong.serve.registry import Registry
from lifelong.serve.retention import Retention
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.status import Status
from lifelong.serve.unlearning import Unlearning
from lifelong.serve.versions import write_json
from lifelong.serve.weights import model_of
from lifelong.serve.wire import OnePiece

_log = logging.getLogger("lifelong.serve")


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
        self.log = SQLiteLog(config.folder / "log", write=True)
        try:
            self.audit = Audit(config.folder / "audit.jsonl")
            self.deployment = Deployment(
                self.registry, self.audit, self._snapshot, lambda: self.log.last
            )
            records = config.release.records
            self.receipts = Receipts(config.folder / "erasures", self.audit, records)
            self.intent = Intent(config.folder)
            self.unlearning = Unlearning(self.log, self.receipts, self.registry)
            self.complete()
        except BaseException:
            self.log.close()
            raise
        self.appender = Appender(self.log)
        self.status = Status(
            config.folder, self.log, self.audit, self._serving, mode=config.release.mode
        )
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
            decisions=kept.decisions,
            held=lambda: self.unlearning.held,
        )
        self.chores = Chores(
            self.log, self.appender, self.retention, self.status.sample, config.serve.flush
        )

    def app(self, address: Callable[[], str] = str) -> FastAPI:
        """Make the HTTP service.

        Args:
            address: where it answers; asked for when it does, for the trainer to know.
        """
        schema, _, _ = self.config.parts()
        serve = self.config.serve
        parts = Parts(
            schema=schema,
            holder=self.deployment.holder,
            submit=self.appender.send,
            find=self.log.find,
            keys=self._keys(),
            versions=self.versions,
            promote=self.promote,
            rollback=self.rollback,
            previous=self.previous,
            complete=lambda: aside(self.complete),
            intend=lambda decision: aside(lambda: self.intent.begin(decision)),
            intended=self.intended,
            challenge=self.challenge,
            withdraw=self.withdraw,
            judged=self.judged,
            candidate=self.candidate,
            erase=self.unlearning.erase,
            removed=self.unlearning.removed,
            erased=self.unlearning.erased,
            receipt=self.unlearning.receipt,
            named=self.receipts.name,
            choose=self.deployment.choose,
            status=lambda: aside(self.status.now),
            quarantine=lambda page: aside(lambda: self._refused(page)),
            audit=lambda page: aside(lambda: self._audited(page)),
            first_of=self.unlearning.first_of,
            traces_of=self.unlearning.traces_of,
            learned_until=self.unlearning.learned_until,
            bar=lambda offset: aside(lambda: self.deployment.bar(offset)),
            metrics=self.metrics,
            log=serve.log,
            batch_rows=serve.batch_rows,
            most_waiting=serve.most_waiting,
            most_bytes=serve.most_bytes,
        )

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
            doing = (*self.chores.all(), self._tell(address))
            tasks = [asyncio.create_task(one) for one in doing]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                self.close()

        return create_app(parts, lifespan)

    async def versions(self) -> list[dict[str, Any]]:
        """List the versions, oldest first."""
        found = await aside(self.registry.versions)
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

        def promote() -> int:
            self.deployment.serve("promote", number, reason, who)
            self._time(number)
            return number

        return await aside(promote)

    async def rollback(self, number: int, reason: str, who: str) -> int:
        """Serve an earlier version."""
        return await aside(lambda: self.deployment.serve("rollback", number, reason, who))

    async def previous(self) -> int:
        """Return the champion before this one.

        Raises:
            RegistryError: there is none, or an erasure has retired what stood between and left
                only the first version, which has learned nothing.
        """
        number = await aside(self.registry.previous_champion)
        if number is None:
            raise RegistryError("there is no champion before this one to go back to")
        champion = self.deployment.holder.current.version
        between = [v for v in await aside(self.registry.versions) if number <= v.number < champion]
        if between and between[0].parent is None and any(v.retired is not None for v in between):
            raise RegistryError(
                f"the champion before this one is version {number}, which has learned nothing; "
                f'send {{"to": {number}}} to serve it all the same'
            )
        return number

    def complete(self) -> None:
        """Finish the decision that was begun and is not in the log, if there is one."""
        decision = self.intent.pending()
        if decision is None:
            return
        if self.log.find(decision["id"]) is None:
            self.unlearning.hold()
            try:
                self.deployment.repeat(decision)
            except RegistryError as error:  # nobody was told that it was done
                told = {"what": "a decision could not be completed", "why": str(error)}
                _log.warning(json.dumps(told))
            else:
                self.log.append([event_of(decision)])
                tell(decision)
        self.intent.end()

    async def intended(self, decision: dict[str, Any], done: bool) -> None:
        """End a decision that is logged or has changed nothing; else it is completed later."""

        def end() -> None:
            if done or not self.deployment.shows(decision["action"], decision["version"]):
                self.intent.end()

        await aside(end)

    async def challenge(self, number: int, share: float, reason: str, who: str) -> int:
        """Have a version answer a share of the users."""
        return await aside(lambda: self.deployment.challenge(number, share, reason, who))

    async def withdraw(self, number: int, reason: str, who: str) -> int:
        """Have a version answer nobody, and recommend it no more."""
        return await aside(lambda: self.deployment.withdraw(number, reason, who))

    async def judged(self, number: int, *rest: Any) -> int:
        """Keep a verdict; see `Deployment.judged`."""
        return await aside(lambda: self.deployment.judged(number, *rest))

    async def candidate(self) -> dict[str, Any]:
        """Tell what is on trial and what came of it: from the trainer's file, and our own."""

        def tell() -> dict[str, Any]:
            path, trial = self.config.folder / "trainer" / "status.json", {}
            with suppress(OSError, ValueError):  # the trainer has said nothing yet
                trial = json.loads(path.read_bytes())
            shown = {name: trial.get(name) for name in ("candidate", "verdict", "reasons", "live")}
            return {
                "mode": self.config.release.mode,
                **self.deployment.candidate(),
                "trial": None if shown["candidate"] is None else shown,
            }

        return await aside(tell)

    def close(self) -> None:
        """Write what waits, and close the log."""
        self.appender.close()
        self.log.close()

    def _time(self, number: int) -> None:
        """Note how long what a version has learned took until it was served."""
        version = self.registry.get(number)
        middle = (version.first_offset + version.last_offset) // 2
        with suppress(LogError):
            when = self.log.time_at(middle)
            if when is not None and middle <= version.last_offset:
                self._delay.set(time.time() - when)

    def _snapshot(self, number: int) -> Snapshot:
        return Snapshot(number, model_of(self.make, self.registry.load_weights(number)))

    def _keys(self) -> Keys:
        """Return the configured keys, and the trainer's own where there are any."""
        own = os.environ.get(INTERNAL)
        trainer = Key("trainer", frozenset({"operate"}), hash_of(own)) if own else None
        return self.config.held(trainer)

    def _serving(self) -> tuple[int, int | None]:
        challenger = self.deployment.holder.challenger
        return (
            self.deployment.holder.current.version,
            None if challenger is None else challenger.version,
        )

    def _refused(self, page: Page) -> list[dict[str, Any]]:
        folder = self.config.folder / "trainer"
        return refused(folder, page.limit, after=page.after, before=page.before)

    def _audited(self, page: Page) -> list[dict[str, Any]]:
        if page.before is None:
            return self.audit.entries(page.after, page.limit)
        last = min(page.before - 1, self.audit.head()[0])
        first = max(page.after, last - page.limit)
        return self.audit.entries(first, max(last - first, 0))[::-1]

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
            http=OnePiece,
            proxy_headers=False,  # a client is who it is, whatever it says of others
            ws="none",
            timeout_graceful_shutdown=5,
        )
    )
    settle()
    # Else the loop waits up to 5 ms for each piece of a decision that another thread works on.
    sys.setswitchinterval(0.0001)
    server.run()
