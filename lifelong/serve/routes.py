"""What each route does, once the door has let a request in and read its body."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Full
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from lifelong.core.errors import LogError
from lifelong.serve.auth import Keys, Refused
from lifelong.serve.batching import Answer, MicroBatcher
from lifelong.serve.events import Event
from lifelong.serve.intent import event_of
from lifelong.serve.paging import Page, page_of
from lifelong.serve.records import Plain
from lifelong.serve.schema import (
    Challenge,
    Erase,
    Erased,
    Example,
    Judged,
    Label,
    Malformed,
    Predict,
    Promote,
    Rollback,
    Schema,
    Withdraw,
    decode,
)
from lifelong.serve.snapshot import Holder
from lifelong.serve.traffic import Choice

_log = logging.getLogger("lifelong.serve")


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


class Routes:
    """The routes' work: a caller's name and a body in, a reply out.

    Args:
        parts: what it works with.
        on_batch: is told the rows of each batch of the model.
        on_event: is told the kind of each event that has become durable, in any thread.
    """

    def __init__(
        self,
        parts: Parts,
        on_batch: Callable[[int], object] = lambda _: None,
        on_event: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.parts = parts
        self.batcher = MicroBatcher(
            parts.holder,
            rows=parts.batch_rows,
            capacity=parts.most_waiting,
            threaded=parts.threaded,
            on_batch=on_batch,
        )
        self._on_event = on_event
        self.lost: str | None = None
        """Why the newest event that was acknowledged before it was durable never became so."""
        self._deciding = asyncio.Lock()
        self._predict = msgspec.json.Decoder(Predict)
        self._labels = msgspec.json.Decoder(Label | list[Label])
        self._examples = msgspec.json.Decoder(Example | list[Example])
        self._promote = msgspec.json.Decoder(Promote)
        self._rollback = msgspec.json.Decoder(Rollback)
        self._erase = msgspec.json.Decoder(Erase)
        self._challenge = msgspec.json.Decoder(Challenge)
        self._withdraw = msgspec.json.Decoder(Withdraw)
        self._judged = msgspec.json.Decoder(Judged)
        self._erased = msgspec.json.Decoder(Erased)

    async def predict(self, caller: str, body: bytes) -> Reply:
        """Answer one row or several, and log what was answered."""
        request = decode(self._predict, body)
        x, several = bytes(request.x), bytes(request.rows)
        if bool(x) == bool(several):
            what = "both x and rows" if x else "neither x nor rows"
            raise Malformed(what, "send x for one row, or rows for several")
        schema = self.parts.schema
        if x:
            row, numbers = schema.read(x)
            rows, features = row[None], [numbers]
        else:
            rows = schema.rows(several, self.parts.batch_rows)
            features = schema.numbers(several, rows=True)
        id = request.id or _new_id()
        tasks = None if request.task is None else np.full(len(rows), request.task, np.int64)
        choice = self.parts.choose(request.subject or id)
        answer = await self.batcher.submit(rows, tasks, choice.arm)
        # A version that was swapped meanwhile answered another share than the one it was drawn for.
        meant = choice.version in (None, answer.version)
        items = self._items(answer, [id] if x else [f"{id}.{i}" for i in range(len(rows))])
        now = self.parts.clock()
        events = [
            Event(
                "prediction",
                item["id"],
                now,
                Plain(
                    x=row,
                    version=answer.version,
                    output=item["output"],
                    propensity=choice.propensity if meant else None,
                    **({"slice": request.slice} if request.slice else {}),
                ),
                task=request.task,
                subject=request.subject,
                source=caller,
            )
            for item, row in zip(items, features, strict=True)
        ]
        if self.parts.log == "async":
            for future in await self._submit(events):
                future.add_done_callback(self._noted)
        else:
            results = await self._append(events)
            items = [self._first(*one) for one in zip(items, events, results, strict=True)]
        return Reply(200, items[0] if x else {"predictions": items})

    async def label(self, caller: str, body: bytes) -> Reply:
        """Log labels; one that was sent before keeps its first offset."""
        events = [
            Event(
                "label",
                label.id or f"label:{label.prediction}",
                self.parts.clock(),
                {"y": self.parts.schema.label(label.y, name + "y")},
                about=label.prediction,
                source=caller,
            )
            for name, label in self._each(decode(self._labels, body))
        ]
        return await self._accepted(events)

    async def learn(self, caller: str, body: bytes) -> Reply:
        """Log examples; one that was sent before, by its id, keeps its first offset."""
        schema, events = self.parts.schema, []
        for name, example in self._each(decode(self._examples, body)):
            schema.row(example.x, name + "x")
            data = {"x": schema.numbers(example.x), "y": schema.label(example.y, name + "y")}
            data |= {"slice": example.slice} if example.slice else {}
            id = example.id or _new_id()
            event = Event("example", id, self.parts.clock(), data)
            events.append(replace(event, task=example.task, subject=example.subject, source=caller))
        return await self._accepted(events)

    async def versions(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """List the versions and who serves."""
        holder, challenger = self.parts.holder, self.parts.holder.challenger
        return Reply(
            200,
            {
                "champion": holder.current.version,
                "challenger": None if challenger is None else challenger.version,
                "versions": await self.parts.versions(),
            },
        )

    async def status(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """Return everything that the console shows."""
        return Reply(200, {**await self.parts.status(), "caller": caller})

    async def quarantine(self, caller: str, query: bytes) -> Reply:  # noqa: ARG002
        """Return rows that were not learned from."""
        return Reply(200, {"rows": await self.parts.quarantine(page_of(query))})

    async def audit(self, caller: str, query: bytes) -> Reply:  # noqa: ARG002
        """Return decisions."""
        return Reply(200, {"entries": await self.parts.audit(page_of(query))})

    async def promote(self, caller: str, body: bytes) -> Reply:
        """Serve a version."""
        request = decode(self._promote, body)
        asked = self._asked("promote", request, caller, version=request.version)
        return await self._decide(
            asked, lambda version: self.parts.promote(version, request.reason, caller)
        )

    async def rollback(self, caller: str, body: bytes) -> Reply:
        """Serve an earlier version."""
        request = decode(self._rollback, body)
        asked = self._asked("rollback", request, caller, version=request.to)
        return await self._decide(
            asked,
            lambda version: self.parts.rollback(version, request.reason, caller),
            discard=request.discard,
        )

    async def challenge(self, caller: str, body: bytes) -> Reply:
        """Have a version answer a share of the users."""
        request = decode(self._challenge, body)
        share = request.share
        asked = self._asked("challenge", request, caller, version=request.version, share=share)
        return await self._decide(
            asked, lambda version: self.parts.challenge(version, share, request.reason, caller)
        )

    async def withdraw(self, caller: str, body: bytes) -> Reply:
        """Have a version answer nobody."""
        request = decode(self._withdraw, body)
        asked = self._asked("withdraw", request, caller, version=request.version)
        return await self._decide(
            asked, lambda version: self.parts.withdraw(version, request.reason, caller)
        )

    async def verdict(self, caller: str, body: bytes) -> Reply:
        """Keep what was found about a candidate, and recommend it if that is asked."""
        said = decode(self._judged, body)
        facts = (said.verdict, said.reasons, said.report, said.recommend)
        asked = self._asked("verdict", said, caller, version=said.version, verdict=said.verdict)
        asked |= {"recommend": said.recommend}
        return await self._decide(
            asked, lambda version: self.parts.judged(version, *facts, caller), lasting=False
        )

    async def candidate(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """Tell what is on trial, what came of it, and what is recommended."""
        return Reply(200, await self.parts.candidate())

    async def erase(self, caller: str, body: bytes) -> Reply:
        """Have a subject forgotten."""
        request = decode(self._erase, body)
        id = f"erasure:{request.id or _new_id()}"
        named = self.parts.named(request.subject)
        # The event first: what follows can be done again, an erasure nobody knows of cannot.
        known = self.parts.find(id)
        if known is None:
            data = self.parts.traces_of(request.subject)
            first = self.parts.first_of(request.subject)
            data = {**data, "first": min(first, data.get("first") or first)}
            event = Event("erasure", id, self.parts.clock(), data, subject=named)
            [offset] = await self._record([replace(event, source=caller)])
        else:
            data, offset = known.data, known.offset
        trimmed = len(data.get("forget", ())) + data.get("earlier", 0)
        unknown = data.get("unknown", 0)
        facts = {"exact": not trimmed and not unknown, "trimmed": trimmed, "unknown_until": unknown}
        events = await self.parts.erase(request.subject, caller, offset, facts)
        # And one after: what came in between may have been learned before it was removed.
        again = {"first": offset}
        done = Event("erasure", f"{id}:done", self.parts.clock(), again, subject=named)
        [until] = await self._record([replace(done, source=caller)])
        await self.parts.removed(offset, events, until, caller)
        return Reply(202, {"id": id, "offset": offset, **facts})

    async def erasure(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """Tell how far an erasure has come; `body` is its id."""
        id = body.decode(errors="replace")
        id = id if id.startswith("erasure:") else f"erasure:{id}"
        known = self.parts.find(id)
        found = None if known is None else await self.parts.receipt(known.offset)
        if found is None:
            raise Refused(404, f"no erasure {id[:60]!r}", "send the id that /erase answered")
        return Reply(200, {"id": id, **found})

    async def erased(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """Note how far the trainer has come with erasures."""
        said = decode(self._erased, body)
        return Reply(200, {"erasures": await self.parts.erased(said.state, said.upto, said.facts)})

    def _items(self, answer: Answer, ids: list[str]) -> list[dict[str, Any]]:
        output = answer.output
        # In float64, a sum of float32 is finite where all of them are.
        if not math.isfinite(output.sum(dtype=np.float64)):
            what = f"version {answer.version} gives no finite output for these features"
            raise Malformed(what, "send features like those it learned from")
        labels: list[int | None] = [None] * len(ids)
        if self.parts.schema.classes is not None:
            labels = output.reshape(len(ids), -1).argmax(1).tolist()
        return [
            {"id": id, "version": answer.version, "output": row, "label": label}
            for id, row, label in zip(ids, output.tolist(), labels, strict=True)
        ]

    def _each(self, sent: Any) -> list[tuple[str, Any]]:
        """Pair each of one or several with the front of its fields' names in errors."""
        if not isinstance(sent, list):
            return [("", sent)]
        if not 1 <= len(sent) <= self.parts.most_events:
            raise Malformed(f"a list of {len(sent)}", f"send 1 to {self.parts.most_events} at once")
        return [(f"[{i}].", one) for i, one in enumerate(sent)]

    async def _accepted(self, events: list[Event]) -> Reply:
        offsets = await self._record(events)
        return Reply(202, {"ids": [event.id for event in events], "offsets": offsets})

    def _asked(self, action: str, request: Any, caller: str, **facts: Any) -> dict[str, Any]:
        """Put a decision down as the log is to have it."""
        named, said = f"decision:{request.id or _new_id()}", isinstance(request, Judged)
        reason = "; ".join(request.reasons) if said else request.reason
        known = {"id": named, "time": self.parts.clock(), "action": action}
        return {**known, "reason": reason, "by": caller, **facts}

    async def _decide(
        self,
        asked: dict[str, Any],
        act: Callable[[int], Awaitable[int]],
        discard: bool = False,
        lasting: bool = True,
    ) -> Reply:
        """Carry out a decision and log it, once for each id.

        Args:
            asked: the decision, whose version may be None for the one that was served before.
            act: carries it out.
            discard: whether the learner goes back, too.
            lasting: whether it is completed after a crash, or has to be sent again.
        """
        id, action, parts = asked["id"], asked["action"], self.parts
        async with self._deciding:
            await parts.complete()
            # Sent again after a crash, a decision must not undo what was decided since.
            known = parts.find(id)
            if known is not None and known.data.get("action") != action:
                what = f"{id[:60]!r} is the id of another decision"
                raise Refused(409, what, "send another id")
            if known is None:
                if asked["version"] is None:
                    asked["version"] = await parts.previous()
                if discard:  # refused before anything is done
                    asked["discard_after"] = parts.learned_until(asked["version"])
                offset = await self._carry_out(asked, act, lasting)
            else:
                asked, offset = known.data, known.offset
        return Reply(
            200, {"id": id, "action": action, "version": asked["version"], "offset": offset}
        )

    async def _carry_out(
        self, asked: dict[str, Any], act: Callable[[int], Awaitable[int]], lasting: bool
    ) -> int:
        if lasting:
            await self.parts.intend(asked)
        done = False
        try:
            await act(asked["version"])
            if "discard_after" in asked:
                await self.parts.bar(asked["discard_after"])
            [offset] = await self._record([event_of(asked)])
            done = True
        finally:
            if lasting:
                await self.parts.intended(asked, done)
        return offset

    async def _record(self, events: list[Event]) -> list[int]:
        """Log events and return their offsets; say which cannot be, the others are."""
        results = await self._append(events)
        offsets = [result for result in results if isinstance(result, int)]
        if len(offsets) < len(events):
            failed = [result for result in results if isinstance(result, LogError)]
            what = str(failed[0])
            if len(events) > 1:
                what = f"{len(failed)} of {len(events)} are not in the log; the first: {what}"
            raise Refused(409, what, "send an id again only with what it was sent with")
        return offsets

    async def _append(self, events: list[Event]) -> list[int | LogError]:
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

    async def _submit(self, events: list[Event]) -> list[Future[int] | asyncio.Future[int]]:
        """Queue events: all, or none where there is no room even for the first."""
        futures: list[Future[int] | asyncio.Future[int]] = []
        for event in events:
            while True:
                try:
                    futures.append(self.parts.submit(event))
                    break
                except Full:
                    if not futures:
                        raise
                # Refusing the rest now would have the client send the first ones again.
                await asyncio.sleep(0.002)
        return futures

    def _first(self, item: dict[str, Any], event: Event, result: int | LogError) -> dict[str, Any]:
        """Answer a prediction sent again as it was first, whichever version answers now."""
        if isinstance(result, int):
            return item
        known = self.parts.find(event.id)
        if known is None or known.kind != "prediction" or known.data["x"] != event.data["x"]:
            raise Refused(409, str(result), "send an id again only with what it was sent with")
        version, output = known.data["version"], known.data["output"]
        answer = Answer(version, np.array([output], np.float32))
        return {**self._items(answer, [event.id])[0], "output": output}

    def _noted(self, future: Future[int] | asyncio.Future[int]) -> None:
        error = future.exception()
        if error is None:
            self._on_event("prediction")
        elif not isinstance(error, ValueError):  # else the log has a first one of that id
            self.lost = str(error)
            _log.error("the log refused a prediction that was answered: %s", error)


def _new_id() -> str:
    return os.urandom(16).hex()


def _result(future: Future[int] | asyncio.Future[int]) -> asyncio.Future[int]:
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
