"""What each route does, once the door has let a request in and read its body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from lifelong.core.errors import LogError
from lifelong.serve.auth import Refused
from lifelong.serve.batching import Answer, MicroBatcher
from lifelong.serve.decisions import Decisions
from lifelong.serve.events import AFTER, Event
from lifelong.serve.ids import new_id
from lifelong.serve.messages import (
    Challenge,
    Erase,
    Erased,
    Example,
    Judged,
    Label,
    Predict,
    Promote,
    Rollback,
    Withdraw,
)
from lifelong.serve.paging import page_of
from lifelong.serve.parts import Parts, Reply
from lifelong.serve.recorder import Recorder
from lifelong.serve.records import Plain
from lifelong.serve.schema import Malformed, decode


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
        self.recorder = Recorder(parts.submit, on_event)
        self._record = self.recorder.record
        self._decisions = Decisions(parts, self._record)
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
        id = request.id or new_id()
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
            await self.recorder.trust(events)
        else:
            results = await self.recorder.append(events)
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
            id = example.id or new_id()
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
        asked = self._decisions.asked("promote", request, caller, version=request.version)
        return await self._decisions.decide(
            asked, lambda version: self.parts.promote(version, request.reason, caller)
        )

    async def rollback(self, caller: str, body: bytes) -> Reply:
        """Serve an earlier version."""
        request = decode(self._rollback, body)
        asked = self._decisions.asked("rollback", request, caller, version=request.to)
        return await self._decisions.decide(
            asked,
            lambda version: self.parts.rollback(version, request.reason, caller),
            discard=request.discard,
        )

    async def challenge(self, caller: str, body: bytes) -> Reply:
        """Have a version answer a share of the users."""
        request = decode(self._challenge, body)
        share = request.share
        asked = self._decisions.asked(
            "challenge", request, caller, version=request.version, share=share
        )
        return await self._decisions.decide(
            asked, lambda version: self.parts.challenge(version, share, request.reason, caller)
        )

    async def withdraw(self, caller: str, body: bytes) -> Reply:
        """Have a version answer nobody."""
        request = decode(self._withdraw, body)
        asked = self._decisions.asked("withdraw", request, caller, version=request.version)
        return await self._decisions.decide(
            asked, lambda version: self.parts.withdraw(version, request.reason, caller)
        )

    async def verdict(self, caller: str, body: bytes) -> Reply:
        """Keep what was found about a candidate, and recommend it if that is asked."""
        said = decode(self._judged, body)
        facts = (said.verdict, said.reasons, said.report, said.recommend)
        asked = self._decisions.asked(
            "verdict", said, caller, version=said.version, verdict=said.verdict
        )
        asked |= {"recommend": said.recommend}
        return await self._decisions.decide(
            asked, lambda version: self.parts.judged(version, *facts, caller), lasting=False
        )

    async def candidate(self, caller: str, body: bytes) -> Reply:  # noqa: ARG002
        """Tell what is on trial, what came of it, and what is recommended."""
        return Reply(200, await self.parts.candidate())

    async def erase(self, caller: str, body: bytes) -> Reply:
        """Have a subject forgotten."""
        request = decode(self._erase, body)
        if (request.id or "").endswith(AFTER):
            raise Malformed(f"id: {request.id!r:.80}", f"send one that does not end with {AFTER!r}")
        id = f"erasure:{request.id or new_id()}"
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
        again = {"first": offset, "again": True}
        done = Event("erasure", id + AFTER, self.parts.clock(), again, subject=named)
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
        if not np.isfinite(output).all():
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
