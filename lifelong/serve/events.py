"""What happens in production, as events; and the log that puts them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

Kind = Literal["prediction", "label", "example", "tick", "erasure", "decision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
AFTER = ":done"
"""Ends the id of an erasure's second event, which comes when the log has no more of it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: what it is, and so what `data` holds:
            prediction  {"x": features, "version": int, "output": [...], "propensity": float | None}
                        with the probability of a user to get the arm that answered; like an
                        example, it has "slice": {attribute: value} if that was sent
            label       {"y": label}, of the prediction `about`
            example     {"x": features, "y": label}: features and label together
            tick        {}: rows that wait for a full batch are to be learned now
            erasure     {"first": int}: everything of `subject` is to be forgotten; the offset of
                        the first event that was removed; with "forget", keys of rows that were
                        learned from events the log no longer has
            decision    {"action": "promote" | "challenge" | ..., "version": int, ...}; with
                        "discard_after": int, nothing after that offset is to stay learned
        id: unique; a second event with the same id is the first one, sent again.
        time: when it was received, in seconds since 1970 (UTC). Nothing is learned from it.
        data: plain JSON values.
        about: the id of the prediction that a label belongs to.
        task: which task a prediction or example belongs to; None if that is not known.
        subject: whose data it is, for erasure; an erasure has a salted hash of it.
        source: who sent it: the name of an API key, for quotas.
        offset: its place in the log, from 1 on; 0 as long as it is in none.

    Example:
        >>> Event("label", "l-1", 0.0, {"y": 3}, about="p-1").offset
        0
    """

    kind: Kind
    id: str
    time: float
    data: dict[str, Any]
    about: str | None = None
    task: int | None = None
    subject: str | None = None
    source: str | None = None
    offset: int = 0


class Log(Protocol):
    """Events in one order, durable once `append` has returned."""

    def append(self, events: Sequence[Event]) -> list[int]:
        """Add events in one commit and return their offsets.

        An event whose id the log has already is not added; its offset is that of the first.
        """

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with offsets above `after`, in order."""

    def find(self, id: str) -> Event | None:
        """Return the event with this id."""

    def label_of(self, prediction: str) -> Event | None:
        """Return the first label about this prediction."""

    @property
    def last(self) -> int:
        """The offset of the newest event, or 0."""
