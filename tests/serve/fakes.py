"""Stand-ins for the log, the registry and the model, and an app made of them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from dataclasses import replace

import httpx
import numpy as np
import torch
from prometheus_client import CollectorRegistry
from torch import nn

from lifelong.core.errors import LogError, RegistryError
from lifelong.serve.app import create_app
from lifelong.serve.auth import ROLES, Key, Keys, hash_of
from lifelong.serve.batching import Busy
from lifelong.serve.events import Event
from lifelong.serve.parts import Parts
from lifelong.serve.schema import Schema
from lifelong.serve.snapshot import Holder, Snapshot

CLASSES = 3
SIZE = 4


class Conflict(LogError, ValueError):
    pass


class FakeLog:
    """Keep events in memory, as a log and its appender do; commit at once, or when told."""

    def __init__(self, capacity: int = 10**9, held: bool = False) -> None:
        self.events: list[Event] = []
        self.capacity, self.held = capacity, held
        self.broken: Exception | None = None
        self._waiting: list[tuple[Event, Future[int]]] = []
        self._lock = threading.Lock()

    def submit(self, event: Event) -> Future[int]:
        with self._lock:
            if len(self._waiting) >= self.capacity:
                raise Busy("the log's queue is full")
            future: Future[int] = Future()
            self._waiting.append((event, future))
        if not self.held:
            self.commit()
        return future

    def commit(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for event, future in waiting:
            if self.broken is not None:
                future.set_exception(self.broken)
                continue
            try:
                future.set_result(self._append(event))
            except LogError as error:
                future.set_exception(error)

    def _append(self, event: Event) -> int:
        json.dumps(event.data, allow_nan=False)
        known = self.find(event.id)
        if known is not None and (known.kind, known.data) != (event.kind, event.data):
            raise Conflict(f"event {event.id!r} is in the log already, with other data")
        if known is not None:
            return known.offset
        self.events.append(replace(event, offset=len(self.events) + 1))
        return len(self.events)

    def find(self, id: str) -> Event | None:
        return next((event for event in self.events if event.id == id), None)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


class FakeVersions:
    """Versions 1 to 9, whose models give their number."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.served = [1, holder.current.version]
        self.erased: list[str] = []
        self.shares: list[float] = []
        self.verdicts: list[tuple] = []
        self.receipts: dict[int, dict] = {}

    async def versions(self):
        return [{"version": n} for n in range(1, 10)]

    async def promote(self, version: int, reason: str, who: str) -> int:
        if not 1 <= version <= 9:
            raise RegistryError(f"there is no version {version}; there are 1 to 9")
        self.holder.current = numbered(version)
        self.served.append(version)
        return version

    async def previous(self) -> int:
        return self.served[-2]

    async def challenge(self, version: int, share: float, reason: str, who: str) -> int:
        self.holder.challenger = numbered(version)
        self.shares.append(share)
        return version

    async def withdraw(self, version: int, reason: str, who: str) -> int:
        self.holder.challenger = None
        return version

    async def judged(self, version, verdict, reasons, report, recommend, who) -> int:
        self.verdicts.append((version, verdict, reasons, report, recommend, who))
        return version

    async def candidate(self):
        return {"mode": "recommend", "recommended": 4}

    async def erase(self, subject: str, who: str, erasure: int, facts: dict) -> int:
        self.erased.append(subject)
        self.receipts[erasure] = {"erasure": erasure, "state": "accepted", **facts}
        return 3

    async def removed(self, erasure: int, events: int, until: int, who: str) -> None:
        self.receipts[erasure] |= {"state": "log removed", "removed": events, "until": until}

    async def gone(self, state, upto, facts):
        self.receipts.update({n: {**r, "state": state, **facts} for n, r in self.receipts.items()})
        return list(self.receipts)

    async def receipt(self, erasure: int):
        return self.receipts.get(erasure)


async def told() -> dict:
    return {"champion": 1}


async def page_told(page) -> list:
    return [{"after": page.after, "limit": page.limit, "before": page.before}]


class Constant(nn.Module):
    """Give the same number for every class of every row."""

    def __init__(self, number: float, outputs: int = CLASSES) -> None:
        super().__init__()
        self.number, self.outputs = number, outputs
        self.batches: list[int] = []

    def forward(self, x):
        return torch.full((len(x), self.outputs), float(self.number))


def numbered(version: int) -> Snapshot:
    return Snapshot(version, Constant(version), probabilities=False)


def all_keys(**more) -> Keys:
    """A key of each role, spelled like it, and of others."""
    keys = [Key(role, frozenset({role}), hash_of(role)) for role in ROLES]
    return Keys([*keys, *more.values()])


def parts(events: FakeLog | None = None, **settings) -> Parts:
    events = FakeLog() if events is None else events
    holder = settings.pop("holder", None) or Holder(numbered(1))
    versions = FakeVersions(holder)
    given = {
        "schema": Schema((SIZE,), classes=CLASSES, low=-1e6, high=1e6),
        "holder": holder,
        "submit": events.submit,
        "find": events.find,
        "keys": all_keys(),
        "versions": versions.versions,
        "promote": versions.promote,
        "rollback": versions.promote,
        "previous": versions.previous,
        "challenge": versions.challenge,
        "withdraw": versions.withdraw,
        "judged": versions.judged,
        "candidate": versions.candidate,
        "erase": versions.erase,
        "removed": versions.removed,
        "erased": versions.gone,
        "receipt": versions.receipt,
        "status": told,
        "quarantine": page_told,
        "audit": page_told,
    }
    return Parts(**{**given, **settings})


def app_of(parts: Parts):
    """An app of these parts, of which there may be several: each has its own metrics."""
    return create_app(replace(parts, metrics=CollectorRegistry()))


def connect(parts: Parts, host: str = "127.0.0.1", key: str | None = None) -> httpx.AsyncClient:
    """A client whose requests go straight into an app, as if from `host`; errors are raised."""
    transport = httpx.ASGITransport(app_of(parts), client=(host, 1))
    headers = {} if key is None else {"X-API-Key": key}
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


def row(number: float = 0.0) -> list[float]:
    return [number] * SIZE


def array(rows: int = 1, number: float = 0.0):
    return np.full((rows, SIZE), number, np.float32)
