"""What the HTTP service is made of, so that it can be tried without the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry

from lifelong.serve.auth import Keys, Refused
from lifelong.serve.events import Event
from lifelong.serve.paging import Page
from lifelong.serve.schema import Schema
from lifelong.serve.snapshot import Holder
from lifelong.serve.traffic import Choice


class Reply(NamedTuple):
    """An HTTP status and what is sent as JSON."""

    status: int
    content: Any


async def _unsupported(*_: object) -> Any:
    raise Refused(501, "this service was started without that", "start it with a registry")


async def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Parts:
    """What the service is made of.

    Attributes:
        schema: of rows and labels.
        holder: the versions that answer.
        submit: adds an event to the log; the future gets its offset once it is durable. Raises
            `queue.Full` at once where there is no room. The future fails with a `LogError`, which
            is a ValueError too where only this event is at fault: its id has another content.
        find: looks an event up by id; is called in the event loop's thread.
        keys: who may do what.
        versions: lists all versions.
        promote: (version, reason, who) makes that version the champion, in the registry and in
            `holder`, and returns its number. Doing it twice must do no harm.
        rollback: (version, reason, who) likewise.
        previous: the version that was served before this one.
        complete: finishes and logs the decision that a failure or a crash cut short, if any.
        intend: has a decision on disk before it changes anything.
        intended: is told that it is in the log (true), or that it failed (false).
        challenge: (version, share, reason, who) has a version answer that share of the users, and
            returns its number. Doing it twice must do no harm; nor with what follows.
        withdraw: (version, reason, who) has it answer nobody.
        judged: (version, verdict, reasons, report, whether to recommend it, who) keeps a verdict.
        candidate: tells what is on trial, what came of it, and what is recommended.
        erase: (subject, who, offset of the erasure's event, how exact it is) removes what the api
            itself keeps of a subject, and returns how many events. The event for the trainer is in
            the log before.
        removed: (offset of the erasure's event, events, offset that a learner has to be past, who)
            is told when that is done.
        erased: (state, offset, facts) is told how far the trainer has come with all erasures up to
            an offset, and returns which those were.
        receipt: of an erasure, by its event's offset; None if there is none.
        named: what a subject is called in an erasure's event, which stays in the log.
        status: returns everything that the console shows.
        quarantine: returns a page of the rows that were not learned from.
        audit: returns a page of the decisions.
        first_of: the offset of the first event of a subject; of the next event if there is none.
        traces_of: what was learned from a subject's events that the log no longer has, for the
            erasure event: {"forget": keys of rows, "first": offset, "unknown": offset, "earlier":
            rows that earlier erasures could not take out of the weights}.
        learned_until: the last offset that a version had learned from.
        bar: has no version that learned from events after an offset promoted any more.
        choose: who answers a subject, or the id of a request without one.
        not_ready: why no requests should be sent here now; None if they should.
        log: "durable" answers a prediction once its event is; "async" at once. In both, a
            prediction whose event finds no room is refused, and labels and examples are durable.
        batch_rows: rows in a batch of the model, and in one request at most.
        most_waiting: rows that may wait for the model.
        threaded: whether the model computes in a thread of its own.
        most_bytes: of a request's body.
        most_events: labels or examples in one request.
        seconds_to_send: in which a request's body must have come.
        metrics: what /metrics shows; the service adds its own.
        clock: seconds since 1970, for the time of events.
    """

    schema: Schema
    holder: Holder
    submit: Callable[[Event], Future[int] | asyncio.Future[int]]
    find: Callable[[str], Event | None]
    keys: Keys = field(default_factory=Keys)
    versions: Callable[[], Awaitable[Sequence[dict[str, Any]]]] = _unsupported
    promote: Callable[[int, str, str], Awaitable[int]] = _unsupported
    rollback: Callable[[int, str, str], Awaitable[int]] = _unsupported
    previous: Callable[[], Awaitable[int]] = _unsupported
    complete: Callable[[], Awaitable[None]] = _nothing
    intend: Callable[[dict[str, Any]], Awaitable[None]] = _nothing
    intended: Callable[[dict[str, Any], bool], Awaitable[None]] = _nothing
    challenge: Callable[[int, float, str, str], Awaitable[int]] = _unsupported
    withdraw: Callable[[int, str, str], Awaitable[int]] = _unsupported
    judged: Callable[[int, str, list[str], dict[str, Any], bool, str], Awaitable[int]] = (
        _unsupported
    )
    candidate: Callable[[], Awaitable[dict[str, Any]]] = _unsupported
    erase: Callable[[str, str, int, dict[str, Any]], Awaitable[int]] = _unsupported
    removed: Callable[[int, int, int, str], Awaitable[None]] = _nothing
    erased: Callable[[str, int, dict[str, Any]], Awaitable[list[int]]] = _unsupported
    receipt: Callable[[int], Awaitable[dict[str, Any] | None]] = _unsupported
    named: Callable[[str], str] = str
    status: Callable[[], Awaitable[dict[str, Any]]] = _unsupported
    quarantine: Callable[[Page], Awaitable[list[dict[str, Any]]]] = _unsupported
    audit: Callable[[Page], Awaitable[list[dict[str, Any]]]] = _unsupported
    first_of: Callable[[str], int] = lambda _: 1
    traces_of: Callable[[str], dict[str, Any]] = lambda _: {}
    learned_until: Callable[[int], int] = lambda _: 0
    bar: Callable[[int], Awaitable[None]] = _nothing
    choose: Callable[[str], Choice] = lambda _: Choice("champion")
    not_ready: Callable[[], str | None] = lambda: None
    log: Literal["durable", "async"] = "durable"
    batch_rows: int = 64
    most_waiting: int = 1024
    threaded: bool = False
    most_bytes: int = 1_000_000
    most_events: int = 1000
    seconds_to_send: float = 30.0
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    clock: Callable[[], float] = time.time
