"""The api's side of unlearning: the log is cleaned, and stays as it is meanwhile."""

from __future__ import annotations

import math
import time
from typing import Any

from lifelong.core.errors import RegistryError
from lifelong.serve.aside import aside
from lifelong.serve.log import SQLiteLog
from lifelong.serve.receipts import Receipts
from lifelong.serve.registry import Registry

HELD = 60.0
"""Seconds for which the log stays as it is after somebody asked how far to go back."""


class Unlearning:
    """Say how far a learner has to go back, and remove what it must not find there again.

    Args:
        log: that is written.
        receipts: of erasures.
        registry: of versions.
    """

    def __init__(self, log: SQLiteLog, receipts: Receipts, registry: Registry) -> None:
        self.log, self.receipts, self.registry = log, receipts, registry
        self._asked_at = -math.inf

    @property
    def held(self) -> bool:
        """Whether the log has to stay as it is: somebody is about to go back."""
        return time.monotonic() - self._asked_at < HELD

    def hold(self) -> None:
        """Have the log stay as it is for a while."""
        self._asked_at = time.monotonic()

    async def erase(self, subject: str, who: str, erasure: int, facts: dict[str, Any]) -> int:
        """Remove what the log holds of a subject."""
        del who  # named when it is done

        def remove() -> int:
            self.receipts.accepted(erasure, subject, self.log.offsets_of(subject), facts)
            return self.log.erase(subject)

        return await aside(remove)

    async def removed(self, erasure: int, events: int, until: int, who: str) -> None:
        """Note that the log has no more of it."""
        await aside(lambda: self.receipts.removed(erasure, events, until=until, who=who))

    async def erased(self, state: str, upto: int, facts: dict[str, Any]) -> list[int]:
        """Note how far the trainer has come with erasures."""
        note = self.receipts.learned if state == "learner rebuilt" else self.receipts.retired
        return await aside(lambda: note(upto, facts))

    async def receipt(self, erasure: int) -> dict[str, Any] | None:
        """Return the receipt of an erasure."""
        return await aside(lambda: self.receipts.get(erasure))

    def first_of(self, subject: str) -> int:
        """Return the first offset that an erasure has to go back to; the log stays as it is."""
        self.hold()
        return self.log.first_of(subject) or self.log.last + 1

    def traces_of(self, subject: str) -> dict[str, Any]:
        """Tell what was learned from a subject's events that the log no longer has."""
        self.hold()  # else more may be trimmed before it is removed
        traces, earlier = self.log.traces_of(subject), self.receipts.trimmed(subject)
        told: dict[str, Any] = {"earlier": earlier} if earlier else {}
        if not traces.none:
            told |= {"forget": traces.rows, "first": traces.first, "unknown": traces.unknown}
        return told

    def learned_until(self, number: int) -> int:
        """Return the last offset that a version has learned from; the log stays as it is.

        Raises:
            RegistryError: the log no longer reaches back to it.
        """
        self.hold()
        last, begin = self.registry.get(number).last_offset, self.log.trimmed
        if last < begin:
            raise RegistryError(
                f"version {number} was learned up to event {last}, and the log begins after "
                f"{begin}: what came since cannot be unlearned; roll back without discard"
            )
        return last
