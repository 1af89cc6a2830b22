"""Decisions about what is served: carried out one at a time, once for each id, and logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lifelong.serve.auth import Refused
from lifelong.serve.events import Event
from lifelong.serve.ids import new_id
from lifelong.serve.intent import event_of
from lifelong.serve.messages import Judged
from lifelong.serve.parts import Parts, Reply

_log = logging.getLogger("lifelong.serve.decisions")


def tell(decision: Mapping[str, Any]) -> None:
    """Say what was decided, to who runs the service; not why, which may name somebody."""
    told = {name: decision[name] for name in ("action", "version", "by")}
    _log.info("{action} version {version}, says {by}".format(**told), extra={"fields": told})


class Decisions:
    """Carry out what operators and the trainer decide.

    Args:
        parts: what the service is made of.
        record: logs events and returns their offsets.
    """

    def __init__(self, parts: Parts, record: Callable[[list[Event]], Awaitable[list[int]]]) -> None:
        self.parts = parts
        self._record = record
        self._deciding = asyncio.Lock()

    def asked(self, action: str, request: Any, caller: str, **facts: Any) -> dict[str, Any]:
        """Put a decision down as the log is to have it."""
        named, said = f"decision:{request.id or new_id()}", isinstance(request, Judged)
        reason = "; ".join(request.reasons) if said else request.reason
        known = {"id": named, "time": self.parts.clock(), "action": action}
        return {**known, "reason": reason, "by": caller, **facts}

    async def decide(
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
        if lasting:  # verdicts come every few seconds
            tell(asked)
        return offset
